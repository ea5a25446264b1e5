//! The screen: two lines about the process, a table, and a line of help.

use super::columns::bytes;
use super::sample::Sample;
use super::view::{Cells, Tab, View};
use crate::service::cli::tasks::{age, thousands};
use crate::text::plain;
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Row, Table, TableState};

/// The lowest screen with a line for the tables, and with one for notes.
const WITH_TABS: u16 = 8;
const WITH_NOTES: u16 = 12;

/// The keys, for the screen of help.
const KEYS: [(&str, &str); 9] = [
    ("q, Ctrl-C", "quit"),
    ("Tab, 1 2 3", "tasks, threads, processes"),
    ("↑ ↓ PgUp PgDn", "select a row; Home and End too"),
    ("s, S", "sort by the next column, or by the one before"),
    ("r", "reverse the order"),
    ("/", "show rows with a text; Enter keeps it, Esc clears it"),
    ("p, Space", "pause, and go on"),
    ("+, -", "take samples more often, or less often"),
    ("?", "this help"),
];

/// Draws a sample. `colours`: the terminal shows them, and the user wants them.
pub(super) fn draw(frame: &mut Frame<'_>, view: &mut View, sample: &Sample, colours: bool) {
    let area = frame.area();
    let cells = view.table(sample, area.width);
    let (tabs, notes) = (
        u16::from(area.height >= WITH_TABS),
        u16::from(area.height >= WITH_NOTES),
    );
    let rows = [
        Constraint::Length(2),
        Constraint::Length(tabs),
        Constraint::Min(1),
        Constraint::Length(notes),
        Constraint::Length(1),
    ];
    let [head, tabs, table, note, help] = Layout::vertical(rows).areas(area);
    frame.render_widget(Paragraph::new(about(view, sample, colours)), head);
    frame.render_widget(
        Paragraph::new(tab_line(view, sample, &cells, colours)),
        tabs,
    );
    rows_of(frame, table, view, &cells, colours);
    let style = coloured(colours, Color::Yellow);
    frame.render_widget(
        Paragraph::new(note_line(view, sample, &cells)).style(style),
        note,
    );
    frame.render_widget(Paragraph::new(help_line(view)).style(dim()), help);
    if view.is_help {
        keys(frame, area);
    }
}

/// Returns the two lines about the process.
fn about(view: &View, sample: &Sample, colours: bool) -> Vec<Line<'static>> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let first = sample.processes.first();
    let pid = first.map_or_else(String::new, |process| format!(" (pid {})", process.pid));
    let phase = match (&sample.phase, sample.is_stopped) {
        (_, true) => ", stopped by a signal".to_owned(),
        (Some(phase), false) => format!(", {phase}"),
        (None, false) => String::new(),
    };
    let warned = sample.is_stopped
        || sample
            .phase
            .as_deref()
            .is_some_and(|phase| phase != "running");
    let ways: Vec<&str> = sample.ways.iter().map(|way| way.as_str()).collect();
    let ways = match ways.as_slice() {
        [] => ", not readable".to_owned(),
        ways => format!(", read by {}", ways.join(" and ")),
    };
    let title = Line::from(vec![
        Span::styled(format!("{}{pid}", plain(&sample.name)), bold),
        Span::styled(
            phase,
            if warned {
                coloured(colours, Color::Yellow)
            } else {
                Style::new()
            },
        ),
        Span::raw(ways),
    ]);
    let busy = first.and_then(|process| process.busy);
    let busy = busy.map_or_else(String::new, |busy| format!(", CPU {:.1} %", busy * 100.0));
    let memory = first.map_or_else(String::new, |process| {
        format!(", {}", bytes(process.resident))
    });
    let paused = if view.is_paused { ", PAUSED" } else { "" };
    let counts = format!(
        "{}, {}, {}{busy}{memory}{paused}",
        count(sample.live, "task"),
        count(sample.threads.len() as u64, "thread"),
        count(sample.processes.len() as u64, "process"),
    );
    vec![title, Line::from(counts)]
}

/// Returns the line with the tables, and the filter.
fn tab_line(view: &View, sample: &Sample, cells: &Cells, colours: bool) -> Line<'static> {
    let mut spans = Vec::new();
    for (at, tab) in Tab::ALL.into_iter().enumerate() {
        let style = match tab == view.tab {
            true => Style::new().add_modifier(Modifier::REVERSED),
            false => Style::new(),
        };
        spans.push(Span::styled(format!(" {} {} ", at + 1, tab.title()), style));
        spans.push(Span::raw(" "));
    }
    if view.is_typing || !view.filter.is_empty() {
        let cursor = if view.is_typing { "▏" } else { "" };
        let filter = format!("/{}{cursor}", plain(&view.filter));
        spans.push(Span::styled(filter, coloured(colours, Color::Cyan)));
        spans.push(Span::raw(format!("  {} hidden", cells.hidden)));
    } else if view.tab == Tab::Tasks {
        let shown: u64 = sample.tasks.iter().map(|task| task.count).sum();
        if shown < sample.live {
            spans.push(Span::raw(format!(
                "{} of {}",
                thousands(shown),
                thousands(sample.live)
            )));
        }
    }
    Line::from(spans)
}

/// Draws the table, scrolled so that the selected row is on the screen.
fn rows_of(frame: &mut Frame<'_>, area: Rect, view: &mut View, cells: &Cells, colours: bool) {
    view.rows = usize::from(area.height.saturating_sub(1)).max(1);
    let aligned = |text: String, is_number| {
        let line = Line::from(text);
        if is_number {
            line.alignment(Alignment::Right)
        } else {
            line
        }
    };
    let header = cells.columns.iter().map(|column| {
        let style = match column.is_order {
            true => {
                coloured(colours, Color::Cyan).add_modifier(Modifier::BOLD | Modifier::UNDERLINED)
            }
            false => Style::new().add_modifier(Modifier::BOLD),
        };
        aligned(column.title.to_owned(), column.is_number).style(style)
    });
    let widths = cells.columns.iter().map(|column| match column.width {
        0 => Constraint::Fill(1),
        width => Constraint::Length(width),
    });
    let widths: Vec<Constraint> = widths.collect();
    // Only the rows of this page are made into widgets.
    let first = view.selected / view.rows * view.rows;
    let page = cells.rows.iter().skip(first).take(view.rows);
    let rows = page.map(|row| {
        let row = row.iter().zip(&cells.columns);
        Row::new(row.map(|(cell, column)| aligned(plain(cell).into_owned(), column.is_number)))
    });
    let table = Table::new(rows, widths)
        .header(Row::new(header))
        .column_spacing(1)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let selected = (!cells.rows.is_empty()).then(|| view.selected - first);
    let mut state = TableState::default().with_selected(selected);
    frame.render_stateful_widget(table, area, &mut state);
}

/// Returns the last cell of the selected row, which may be cut in the table, or the first note.
fn note_line(view: &View, sample: &Sample, cells: &Cells) -> String {
    let row = cells.rows.get(view.selected).and_then(|row| row.last());
    match (sample.notes.as_slice(), row) {
        ([first, ..], _) => plain(first.lines().next().unwrap_or_default()).into_owned(),
        ([], Some(text)) => plain(text.trim_start()).into_owned(),
        ([], None) => String::new(),
    }
}

fn help_line(view: &View) -> String {
    if view.is_typing {
        return "type a text that rows must have   Enter keep   Esc clear".to_owned();
    }
    let every = age(view.pause);
    let order = view.order();
    format!("q quit  Tab view  s sort: {order}  r reverse  / filter  p pause  +- {every}  ? help")
}

/// Draws the keys over the table.
fn keys(frame: &mut Frame<'_>, area: Rect) {
    let width = area.width.min(74);
    let height = area
        .height
        .min(u16::try_from(KEYS.len()).unwrap_or(u16::MAX) + 2);
    let place = Rect {
        x: (area.width - width) / 2,
        y: (area.height - height) / 2,
        width,
        height,
    };
    let lines = KEYS.map(|(keys, does)| Line::from(format!(" {keys:<14} {does}")));
    let block = Block::bordered().title(" Keys ");
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines.to_vec()).block(block), place);
}

fn count(count: u64, one: &str) -> String {
    match (count, one) {
        (1, one) => format!("1 {one}"),
        (count, "process") => format!("{} processes", thousands(count)),
        (count, one) => format!("{} {one}s", thousands(count)),
    }
}

fn coloured(colours: bool, colour: Color) -> Style {
    if colours {
        Style::new().fg(colour)
    } else {
        Style::new()
    }
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}
