//! Tests of the control socket of a runtime in this process: its file, its clients, and its verbs.

use super::client::{Answer, LONG, answer};
use headcount::{Report, Runtime, TaskGroup};
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// A service with a control socket in a folder of its own.
struct Service {
    folder: TempDir,
}

fn service() -> Service {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    Service { folder }
}

fn build(path: &Path) -> Runtime {
    let builder = Runtime::builder().name("test").print(false).signals(false);
    let builder = builder.worker_threads(2).control_socket(path);
    // The shutdown need not wait for the tasks that drain never.
    let builder = builder.drain_budget(Duration::from_millis(20));
    builder.build().expect("threads are available")
}

impl Service {
    fn path(&self) -> PathBuf {
        self.folder.path().join("test.sock")
    }

    /// Runs `look` while the service is running. The runtime catches a panic of it.
    fn run(&self, look: impl FnOnce(&Self, &TaskGroup)) -> Report {
        let runtime = build(&self.path());
        assert_eq!(runtime.control_socket(), Some(&*self.path()));
        let mut looked = false;
        let report = runtime.run(async |tasks| {
            look(self, &tasks);
            looked = true;
        });
        assert!(looked, "{report}");
        report
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path()).expect("it listens");
        stream.set_read_timeout(Some(LONG)).expect("not zero");
        stream
    }

    #[track_caller]
    fn ask(&self, request: &str) -> Answer {
        self.send(&format!("{request} HTTP/1.1\r\nhost: localhost\r\n\r\n"))
    }

    #[track_caller]
    fn send(&self, request: &str) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).expect("it reads");
        answer(&mut stream).expect("it answers")
    }

    #[track_caller]
    fn json(&self, request: &str, status: u16) -> serde_json::Value {
        let answer = self.ask(request);
        assert_eq!(answer.status, status, "{request}: {}", answer.body);
        serde_json::from_str(&answer.body).expect("it is JSON")
    }
}

/// Asserts that there is no socket at the path, and that the service runs anyway.
#[track_caller]
fn assert_runs_without(path: &Path) {
    let runtime = build(path);
    assert_eq!(runtime.control_socket(), None);
    assert!(runtime.run(async |_tasks| {}).is_clean());
}

// === the file ===

#[test]
fn without_being_asked_for_there_is_no_socket() {
    let runtime = Runtime::builder().print(false).build();
    let runtime = runtime.expect("threads are available");
    assert_eq!(runtime.control_socket(), None);
}

#[test]
fn the_socket_is_the_users_alone_and_is_removed_at_the_end() {
    let service = service();
    service.run(|service, _| {
        let mode = fs::metadata(service.path())
            .expect("it is there")
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
    });
    assert!(!service.path().exists());
}

#[test]
fn a_socket_that_a_killed_process_left_behind_is_replaced() {
    let service = service();
    drop(UnixListener::bind(service.path()).expect("the folder is there"));
    service.run(|service, _| assert_eq!(service.ask("GET /livez").status, 200));
}

#[test]
fn a_socket_in_use_and_a_file_that_is_no_socket_are_left_alone() {
    let service = service();
    let path = service.path();
    let listens = UnixListener::bind(&path).expect("the folder is there");
    assert_runs_without(&path);
    UnixStream::connect(&path).expect("the socket still leads there");
    listens.accept().expect("and it is that one");

    let file = service.folder.path().join("file");
    File::create(&file).expect("a file can be made");
    assert_runs_without(&file);
    assert!(file.exists());
}

#[test]
fn a_symbolic_link_in_the_place_of_the_socket_is_refused() {
    let service = service();
    let target = service.folder.path().join("target");
    symlink(&target, service.path()).expect("a link can be made");
    assert_runs_without(&service.path());
    assert!(!target.exists());
    // One that leads to a stale socket too.
    drop(UnixListener::bind(&target).expect("the folder is there"));
    assert_runs_without(&service.path());
    assert!(target.exists());
}

#[test]
fn a_folder_in_which_others_may_replace_files_is_refused() {
    let service = service();
    let folder = service.folder.path().join("open");
    fs::create_dir(&folder).expect("a folder can be made");
    let path = folder.join("test.sock");
    let set = |mode| {
        fs::set_permissions(&folder, Permissions::from_mode(mode)).expect("the folder is ours");
    };
    set(0o777);
    assert_runs_without(&path);
    // As `/tmp` is: only the owner of a file may replace it.
    set(0o1777);
    assert_eq!(build(&path).control_socket(), Some(&*path));
}

// === its clients ===

#[test]
fn it_has_the_routes_of_the_admin_server() {
    service().run(|service, tasks| {
        tasks
            .group("http")
            .spawn("idler", std::future::pending::<()>());
        let tasks = service.json("GET /api/tasks?group=http", 200);
        assert_eq!(tasks["tasks"][0]["name"], "idler");
        for path in ["/", "/metrics", "/readyz", "/api/runtime", "/api/report"] {
            assert_eq!(service.ask(&format!("GET {path}")).status, 200, "{path}");
        }
    });
}

#[test]
fn bad_requests_are_refused() {
    service().run(|service, _| {
        for (request, status) in [
            ("\x16\x03\x01 hello\r\n\r\n", 400),
            ("POST /stop HTTP/1.1\r\n\r\n", 400),
            ("POST /stop HTTP/1.1\r\nhost: evil.example\r\n\r\n", 403),
            (
                "POST /stop HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\nnow",
                413,
            ),
            ("GET /stop HTTP/1.1\r\nhost: localhost\r\n\r\n", 405),
            ("POST /livez HTTP/1.1\r\nhost: localhost\r\n\r\n", 405),
            ("POST /halt HTTP/1.1\r\nhost: localhost\r\n\r\n", 404),
            ("POST /drain HTTP/1.1\r\nhost: localhost\r\n\r\n", 400),
            (
                "POST /drain?group= HTTP/1.1\r\nhost: localhost\r\n\r\n",
                400,
            ),
            (
                "POST /drain?group=a&group=b HTTP/1.1\r\nhost: localhost\r\n\r\n",
                400,
            ),
            (
                "GET /api/dump?format=xml HTTP/1.1\r\nhost: localhost\r\n\r\n",
                400,
            ),
        ] {
            let answer = service.send(request);
            assert_eq!(answer.status, status, "{request}: {answer:?}");
        }
        assert_eq!(service.json("GET /api/report", 200)["phase"], "running");
    });
}

#[test]
fn a_hundred_slow_clients_keep_no_request_out() {
    service().run(|service, _| {
        let slow: Vec<UnixStream> = (0..100)
            .map(|_| {
                let mut stream = service.connect();
                // It fails for those that already had to give way.
                stream.write_all(b"GET /livez HTTP/1.1\r\nhost: loc").ok();
                stream
            })
            .collect();
        for path in ["/livez", "/readyz", "/metrics", "/api/tasks"] {
            assert_eq!(service.ask(&format!("GET {path}")).status, 200, "{path}");
        }
        drop(slow);
    });
}

// === the verbs ===

#[test]
fn a_dump_is_text_or_json_and_names_the_tasks() {
    service().run(|service, tasks| {
        tasks
            .group("http")
            .spawn("idler", std::future::pending::<()>());
        let json = service.json("GET /api/dump", 200);
        assert_eq!(json["root"]["groups"][0]["kinds"][0]["name"], "idler");
        assert!(json["threads"].is_array(), "{json}");
        let text = service.ask("GET /api/dump?format=text");
        assert_eq!(
            text.header("content-type"),
            Some("text/plain; charset=utf-8")
        );
        assert!(
            text.body.starts_with("headcount test: dump, running\n"),
            "{}",
            text.body
        );
        assert!(text.body.contains("idler"), "{}", text.body);
    });
}

#[test]
fn a_stop_begins_the_shutdown_once() {
    let service = service();
    let report = service.run(|service, tasks| {
        assert_eq!(service.json("POST /stop", 202)["begun"], true);
        while !tasks.is_draining() {
            std::thread::yield_now();
        }
        assert_eq!(service.json("POST /stop", 202)["begun"], false);
    });
    let text = report.to_text(false);
    assert!(
        text.starts_with("headcount test: stopping (control socket)\n"),
        "{text}"
    );
    assert!(report.is_clean());
}

#[test]
fn a_drain_and_a_cancel_end_the_tasks_of_the_groups_with_that_path() {
    service().run(|service, tasks| {
        let polite = tasks.group("http");
        let group = polite.clone();
        polite.spawn("polite", async move { group.draining().await });
        let jobs = [tasks.group("jobs"), tasks.group("jobs")];
        for group in &jobs {
            group.spawn("deaf", std::future::pending::<()>());
        }
        tasks.spawn("other", std::future::pending::<()>());
        assert_eq!(
            service.json("POST /drain?group=http", 200),
            serde_json::json!({"group": "http", "groups": 1, "before": 1, "left": 0})
        );
        assert!(!polite.is_draining(), "it is open again");
        assert_eq!(
            service.json("POST /cancel?group=jobs", 200),
            serde_json::json!({"group": "jobs", "groups": 2, "before": 2, "left": 0})
        );
        assert_eq!(
            service.json("GET /api/runtime", 200)["tasks_live"],
            2,
            "main and the other"
        );
    });
}

#[test]
fn a_drain_of_deaf_tasks_is_answered_before_its_budget_ends() {
    service().run(|service, tasks| {
        let jobs = tasks.group("jobs").drain_budget(LONG);
        jobs.spawn("deaf", std::future::pending::<()>());
        assert_eq!(
            service.json("POST /drain?group=jobs", 202),
            serde_json::json!({"group": "jobs", "groups": 1, "before": 1, "left": 1})
        );
        assert!(jobs.is_draining());
    });
}

#[test]
fn a_wrong_group_is_answered_with_the_groups_that_exist() {
    service().run(|service, tasks| {
        let http = tasks.group("http");
        let _groups = [http.group("tls"), tasks.group("jobs"), tasks.group("jobs")];
        for verb in ["drain", "cancel"] {
            assert_eq!(
                service.json(&format!("POST /{verb}?group=tls"), 404),
                serde_json::json!({
                    "error": "there is no group 'tls'",
                    "groups": ["http", "http/tls", "jobs"],
                    "more": 0
                })
            );
        }
    });
}

// === other users ===

#[test]
#[ignore = "needs root, to become another user"]
fn a_client_of_another_user_is_disconnected_before_it_is_read() {
    let service = service();
    let open = Permissions::from_mode(0o777);
    service.run(|service, _| {
        // The modes are the first defence, and are taken away here.
        fs::set_permissions(service.folder.path(), Permissions::from_mode(0o755))
            .expect("it is ours");
        fs::set_permissions(service.path(), open).expect("it is ours");
        let as_other = std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                let other = rustix::process::Uid::from_raw(65_534);
                rustix::thread::set_thread_res_uid(other, other, other).expect("it is root");
                let mut stream = service.connect();
                stream
                    .write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
                    .ok();
                answer(&mut stream)
            });
            client.join().expect("it connects")
        });
        assert!(as_other.is_none(), "{as_other:?}");
        assert_eq!(service.ask("GET /livez").status, 200);
    });
}
