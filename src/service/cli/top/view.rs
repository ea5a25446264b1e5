//! The view of a sample: the table, its order, the filter, and the keys that change them.

use super::columns::{Column, PROCESSES, TASKS, THREADS};
use super::sample::Sample;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::time::Duration;

/// The shortest and the longest time between two samples.
const FASTEST: Duration = Duration::from_millis(500);
const SLOWEST: Duration = Duration::from_secs(60);
/// The longest filter.
const FILTER: usize = 60;
/// The rows that a page key moves by, when the screen was not drawn yet.
const ROWS: usize = 10;

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Tasks,
    Threads,
    Processes,
}

/// The choices of the user.
#[derive(Debug)]
pub(super) struct View {
    pub(super) tab: Tab,
    /// Of each table the column that it is sorted by, and whether in reverse.
    sorted: [(usize, bool); 3],
    /// Only rows with this text in one of their cells are shown.
    pub(super) filter: String,
    /// True while the filter is typed.
    pub(super) is_typing: bool,
    pub(super) is_paused: bool,
    pub(super) is_help: bool,
    /// The time between two samples that the user chose, and the time until the next one: longer if
    /// the last one took too much processor time.
    pub(super) every: Duration,
    pub(super) pause: Duration,
    /// The selected row.
    pub(super) selected: usize,
    /// The number of rows on the screen.
    pub(super) rows: usize,
}

/// The effect of a key on the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Draw,
    /// Take a sample now.
    Sample,
    /// Stop this process, as Ctrl-Z does.
    Suspend,
    Quit,
}

/// A table as text: the titles and the rows that pass the filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cells {
    /// The shown columns: title, width, whether it is of numbers, and whether the rows are sorted by it.
    pub(super) columns: Vec<Shown>,
    pub(super) rows: Vec<Vec<String>>,
    /// The number of rows that the filter hides.
    pub(super) hidden: usize,
}

/// A column that is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) title: &'static str,
    pub(super) width: u16,
    pub(super) is_number: bool,
    pub(super) is_order: bool,
}

// === impl Tab ===

impl Tab {
    pub(super) const ALL: [Self; 3] = [Self::Tasks, Self::Threads, Self::Processes];

    /// Returns the titles of the table's columns.
    fn titles(self) -> Vec<&'static str> {
        match self {
            Self::Tasks => TASKS.iter().map(|column| column.title).collect(),
            Self::Threads => THREADS.iter().map(|column| column.title).collect(),
            Self::Processes => PROCESSES.iter().map(|column| column.title).collect(),
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Tasks => "Tasks",
            Self::Threads => "Threads",
            Self::Processes => "Processes",
        }
    }
}

// === impl View ===

impl View {
    pub(super) fn new(every: Duration) -> Self {
        Self {
            tab: Tab::Tasks,
            sorted: [(0, false); 3],
            filter: String::new(),
            is_typing: false,
            is_paused: false,
            is_help: false,
            every,
            pause: every,
            selected: 0,
            rows: ROWS,
        }
    }

    /// Changes the view by a key, and returns what else it asks for.
    pub(super) fn press(&mut self, key: KeyEvent) -> Effect {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Effect::Quit,
                KeyCode::Char('z') => Effect::Suspend,
                _ => Effect::Draw,
            };
        }
        if self.is_typing {
            self.edit(key.code);
            return Effect::Draw;
        }
        match key.code {
            KeyCode::Esc if self.is_help => self.is_help = false,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('q') => return Effect::Quit,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.is_help = !self.is_help,
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Char('s') => self.sort_by(1),
            KeyCode::Char('S') => self.sort_by(-1),
            KeyCode::Char('r') => self.sorted[self.tab as usize].1 ^= true,
            KeyCode::Char('p' | ' ') => {
                self.is_paused ^= true;
                return if self.is_paused {
                    Effect::Draw
                } else {
                    Effect::Sample
                };
            }
            KeyCode::Char('+') => self.take_every((self.every / 2).max(FASTEST)),
            KeyCode::Char('-') => self.take_every((self.every * 2).min(SLOWEST)),
            KeyCode::Char('1') => self.show(Tab::Tasks),
            KeyCode::Char('2') => self.show(Tab::Threads),
            KeyCode::Char('3') => self.show(Tab::Processes),
            KeyCode::Tab | KeyCode::Right => self.turn(1),
            KeyCode::BackTab | KeyCode::Left => self.turn(2),
            KeyCode::Down | KeyCode::Char('j') => self.selected += 1,
            KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected.saturating_sub(1),
            KeyCode::PageDown => self.selected += self.rows,
            KeyCode::PageUp => self.selected = self.selected.saturating_sub(self.rows),
            KeyCode::Home | KeyCode::Char('g') => self.selected = 0,
            KeyCode::End | KeyCode::Char('G') => self.selected = usize::MAX / 2,
            _ => {}
        }
        Effect::Draw
    }

    /// Changes the filter by a key.
    fn edit(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.filter.clear();
                self.is_typing = false;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if self.filter.chars().count() < FILTER => self.filter.push(c),
            _ => {}
        }
        self.selected = 0;
    }

    fn take_every(&mut self, every: Duration) {
        (self.every, self.pause) = (every, every);
    }

    fn show(&mut self, tab: Tab) {
        (self.tab, self.selected) = (tab, 0);
    }

    fn turn(&mut self, by: usize) {
        self.show(Tab::ALL[(self.tab as usize + by) % Tab::ALL.len()]);
    }

    /// Sorts by the next column, or by the one before.
    fn sort_by(&mut self, by: isize) {
        let columns = self.tab.titles().len().cast_signed();
        let (column, is_reverse) = &mut self.sorted[self.tab as usize];
        let next = (column.cast_signed() + by).rem_euclid(columns);
        (*column, *is_reverse) = (next.cast_unsigned(), false);
        self.selected = 0;
    }

    /// Returns the title of the column that the table is sorted by.
    pub(super) fn order(&self) -> &'static str {
        self.tab.titles()[self.sorted[self.tab as usize].0]
    }

    /// Returns the table of a sample for a screen of that width, and moves the selection into it.
    pub(super) fn table(&mut self, sample: &Sample, width: u16) -> Cells {
        let cells = match self.tab {
            Tab::Tasks => self.cells(&TASKS, &sample.tasks, width),
            Tab::Threads => self.cells(&THREADS, &sample.threads, width),
            Tab::Processes => self.cells(&PROCESSES, &sample.processes, width),
        };
        self.selected = self.selected.min(cells.rows.len().saturating_sub(1));
        cells
    }

    fn cells<T>(&self, columns: &[Column<T>], lines: &[T], width: u16) -> Cells {
        let (by, is_reverse) = self.sorted[self.tab as usize];
        let filter = self.filter.to_lowercase();
        let mut passing: Vec<(&T, Vec<String>)> = Vec::new();
        for line in lines {
            let cells: Vec<String> = columns.iter().map(|column| (column.text)(line)).collect();
            let passes = |cell: &String| cell.to_lowercase().contains(&filter);
            if filter.is_empty() || cells.iter().any(passes) {
                passing.push((line, cells));
            }
        }
        let hidden = lines.len() - passing.len();
        // Stable, so equal rows stay in the order of the sample.
        passing.sort_by(|(a, _), (b, _)| (columns[by].order)(a, b));
        if is_reverse {
            passing.reverse();
        }
        let is_shown = |column: &&Column<T>| column.from <= width;
        let shown = columns
            .iter()
            .enumerate()
            .filter(|(_, column)| is_shown(column));
        let shown = shown.map(|(at, column)| Shown {
            title: column.title,
            width: column.width,
            is_number: column.is_number,
            is_order: at == by,
        });
        let rows = passing.into_iter().map(|(_, cells)| {
            let cells = columns.iter().zip(cells);
            let cells = cells.filter(|(column, _)| is_shown(column));
            cells.map(|(_, cell)| cell).collect()
        });
        Cells {
            columns: shown.collect(),
            rows: rows.collect(),
            hidden,
        }
    }
}
