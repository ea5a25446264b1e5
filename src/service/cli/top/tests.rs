//! Tests of the view and of the screen, with a sample that does not change.

use super::super::ways::Way;
use super::draw::draw;
use super::sample::{Age, ProcessLine, Sample, TaskLine, ThreadLine};
use super::view::{Effect, Tab, View};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;
use std::time::Duration;

fn task(name: &str, seconds: u64) -> TaskLine {
    TaskLine {
        by: Way::BlackBox,
        id: Some(seconds),
        count: 1,
        name: name.to_owned(),
        state: "running".to_owned(),
        age: Some(Age::Known(Duration::from_secs(seconds))),
        idle: Some(Duration::from_millis(1500)),
        busy: None,
        thread: None,
    }
}

fn sample() -> Sample {
    let busy = TaskLine {
        busy: Some(Duration::from_secs(7)),
        thread: Some(4713),
        ..task("jobs/import", 400)
    };
    let untracked = TaskLine {
        by: Way::Attach,
        age: Some(Age::AtLeast(Duration::from_secs(12))),
        idle: None,
        state: "waiting".to_owned(),
        ..task("redis::aio::drive", 12)
    };
    let thread = |tid, name: &str, busy| ThreadLine {
        tid,
        name: name.to_owned(),
        class: Some("worker"),
        state: "sleeping",
        busy: Some(busy),
        cpu: Duration::from_secs(3),
        task: None,
        held: None,
    };
    let process = |level, pid, command: &str| ProcessLine {
        level,
        pid,
        command: command.to_owned(),
        state: "sleeping",
        busy: Some(0.042),
        cpu: Duration::from_secs(90),
        resident: 12 << 20,
    };
    Sample {
        name: "orders".to_owned(),
        phase: Some("running".to_owned()),
        is_stopped: false,
        ways: vec![Way::BlackBox, Way::Attach],
        tasks: vec![task("http/accept", 4000), busy, untracked],
        live: 1203,
        threads: vec![
            thread(4711, "orders", 0.0),
            thread(4713, "orders-worker-0", 0.99),
        ],
        processes: vec![
            process(0, 4711, "orders --port 80"),
            process(1, 4720, "sleep 100"),
        ],
        notes: Vec::new(),
    }
}

fn view() -> View {
    View::new(Duration::from_secs(2))
}

fn press(view: &mut View, keys: &str) {
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            key => KeyCode::Char(key),
        };
        assert_eq!(view.press(code.into()), Effect::Draw, "{key}");
    }
}

/// Draws on a screen of that size, and returns its lines without spaces at their ends.
fn drawn(view: &mut View, sample: &Sample, (width, height): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("it is in memory");
    let frame = terminal.draw(|frame| draw(frame, view, sample, false));
    let buffer = frame.expect("it is in memory").buffer.clone();
    let is_plain =
        |cell: &ratatui::buffer::Cell| cell.fg == Color::Reset && cell.bg == Color::Reset;
    assert!(
        buffer.content.iter().all(is_plain),
        "no colours were asked for"
    );
    let rows = buffer.content.chunks(usize::from(width));
    let rows = rows.map(|row| {
        let row: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
        row.trim_end().to_owned() + "\n"
    });
    rows.collect()
}

/// Returns the first column of the rows.
fn names(view: &mut View, sample: &Sample) -> Vec<String> {
    let cells = view.table(sample, 200);
    let name = |row: Vec<String>| row.into_iter().next_back().unwrap_or_default();
    cells.rows.into_iter().map(name).collect()
}

#[test]
fn the_screen_of_eighty_columns_has_all_that_is_known() {
    insta::assert_snapshot!(drawn(&mut view(), &sample(), (80, 13)), @r"
    orders (pid 4711), running, read by black box and attach
    1,203 tasks, 2 threads, 2 processes, CPU 4.2 %, 12 MiB
     1 Tasks   2 Threads   3 Processes  3 of 1,203
         AGE  POLLED   BUSY STATE             ID TASK
        1h06    1.5s      – running         4000 http/accept
        6m40    1.5s   7.0s running          400 jobs/import
        >12s       –      – waiting           12 redis::aio::drive




    http/accept
    q quit  Tab view  s sort: AGE  r reverse  / filter  p pause  +- 2.0s  ? help
    ");
}

#[test]
fn a_small_screen_has_fewer_columns_and_lines() {
    insta::assert_snapshot!(drawn(&mut view(), &sample(), (40, 7)), @r"
    orders (pid 4711), running, read by blac
    1,203 tasks, 2 threads, 2 processes, CPU
         AGE STATE       TASK
        1h06 running     http/accept
        6m40 running     jobs/import
        >12s waiting     redis::aio::drive
    q quit  Tab view  s sort: AGE  r reverse
    ");
    // Nothing fits on these, and nothing panics.
    for size in [(1, 1), (3, 2), (10, 3)] {
        let mut view = view();
        drawn(&mut view, &sample(), size);
        press(&mut view, "?");
        drawn(&mut view, &sample(), size);
    }
}

#[test]
fn the_other_tables_are_shown_by_their_keys() {
    let mut view = view();
    press(&mut view, "2");
    insta::assert_snapshot!(drawn(&mut view, &sample(), (80, 8)), @r"
    orders (pid 4711), running, read by black box and attach
    1,203 tasks, 2 threads, 2 processes, CPU 4.2 %, 12 MiB
     1 Tasks   2 Threads   3 Processes
     CPU %     CPU STATE         TID CLASS     THREAD                 TASK
      99.0    3.0s sleeping     4713 worker    orders-worker-0
       0.0    3.0s sleeping     4711 worker    orders

    q quit  Tab view  s sort: CPU %  r reverse  / filter  p pause  +- 2.0s  ? help
    ");
    press(&mut view, "3");
    insta::assert_snapshot!(drawn(&mut view, &sample(), (80, 8)), @r"
    orders (pid 4711), running, read by black box and attach
    1,203 tasks, 2 threads, 2 processes, CPU 4.2 %, 12 MiB
     1 Tasks   2 Threads   3 Processes
         PID  CPU %     CPU    MEMORY STATE     COMMAND
        4711    4.2    1m30    12 MiB sleeping  orders --port 80
        4720    4.2    1m30    12 MiB sleeping    sleep 100

    q quit  Tab view  s sort: PID  r reverse  / filter  p pause  +- 2.0s  ? help
    ");
    view.press(KeyCode::Tab.into());
    assert_eq!(view.tab, Tab::Tasks);
    view.press(KeyCode::BackTab.into());
    assert_eq!(view.tab, Tab::Processes);
}

#[test]
fn rows_are_sorted_by_each_column_and_in_reverse() {
    let (mut view, sample) = (view(), sample());
    let by_age = ["http/accept", "jobs/import", "redis::aio::drive"];
    assert_eq!(names(&mut view, &sample), by_age);
    press(&mut view, "r");
    assert_eq!(
        names(&mut view, &sample),
        by_age
            .map(str::to_owned)
            .into_iter()
            .rev()
            .collect::<Vec<_>>()
    );
    press(&mut view, "ss");
    assert_eq!(view.order(), "BUSY");
    assert_eq!(names(&mut view, &sample)[0], "jobs/import");
    press(&mut view, "SSS");
    assert_eq!(view.order(), "TASK");
    assert_eq!(names(&mut view, &sample), by_age);
}

#[test]
fn a_filter_hides_rows_until_it_is_cleared() {
    let (mut view, sample) = (view(), sample());
    press(&mut view, "/IMP");
    assert_eq!(names(&mut view, &sample), ["jobs/import"]);
    // While it is typed, no letter is a command.
    press(&mut view, "q");
    assert!(names(&mut view, &sample).is_empty());
    view.press(KeyCode::Backspace.into());
    press(&mut view, "\n");
    assert!(drawn(&mut view, &sample, (80, 10)).contains("/IMP  2 hidden"));
    assert_eq!(view.press(KeyCode::Char('q').into()), Effect::Quit);
    press(&mut view, "\u{1b}");
    assert_eq!(names(&mut view, &sample).len(), 3);
}

#[test]
fn the_selection_stays_in_the_table_and_on_the_screen() {
    let mut sample = sample();
    sample.tasks = (0..100)
        .map(|at| task(&format!("t{at}"), 1000 - at))
        .collect();
    let mut view = view();
    view.press(KeyCode::End.into());
    let screen = drawn(&mut view, &sample, (80, 24));
    assert!(
        screen.contains(" t99") && !screen.contains(" t0"),
        "{screen}"
    );
    view.press(KeyCode::PageUp.into());
    view.press(KeyCode::Up.into());
    let screen = drawn(&mut view, &sample, (80, 24));
    assert!(screen.contains(" t80"), "{screen}");
    view.press(KeyCode::Home.into());
    assert!(drawn(&mut view, &sample, (80, 24)).contains(" t0"));
    sample.tasks.truncate(1);
    view.selected = 50;
    drawn(&mut view, &sample, (80, 24));
    assert_eq!(view.selected, 0);
}

#[test]
fn control_keys_quit_and_suspend_also_while_a_filter_is_typed() {
    let mut view = view();
    let control = |key| KeyEvent::new(KeyCode::Char(key), KeyModifiers::CONTROL);
    press(&mut view, "/");
    assert_eq!(view.press(control('c')), Effect::Quit);
    assert_eq!(view.press(control('z')), Effect::Suspend);
    press(&mut view, "\n");
    press(&mut view, "p");
    assert!(view.is_paused);
    assert_eq!(view.press(KeyCode::Char('p').into()), Effect::Sample);
}
