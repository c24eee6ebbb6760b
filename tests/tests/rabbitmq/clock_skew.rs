//! Machines whose clocks differ: a request is handled, and its caller gets the reply.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use brickwork_tests::binary::brickwork;
use brickwork_tests::broker::Broker;
use brickwork_tests::http;
use brickwork_tests::process::{Process, free_address, until};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(60);

/// Moves the wall clock of a process.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(id, time);
    if (id == CLOCK_REALTIME) time->tv_sec += AHEAD;
    return failed;
}
"#;

/// Builds the library that moves the wall clock by this many seconds.
fn moved_clock(folder: &Path, seconds: i32) -> PathBuf {
    let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
    std::fs::write(&source, CLOCK).expect("it can be written");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", &format!("-DAHEAD={seconds}"), "-o"]);
    let built = compiler.arg(&library).arg(&source).arg("-ldl").status();
    assert!(built.expect("there is a C compiler").success());
    library
}

/// Starts one service in a folder of its own, with this clock.
fn start(manifest: &str, only: &str, ahead_s: i32) -> (Process, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("app.toml"), manifest).expect("it can be written");
    let mut command = Command::new(brickwork());
    command.args(["run", "app.toml", "--only", only]);
    command.current_dir(folder.path());
    if ahead_s != 0 {
        command.env("LD_PRELOAD", moved_clock(folder.path(), ahead_s));
    }
    let process = Process::start(command, folder.path(), "it was just built");
    (process, folder)
}

fn ask(address: SocketAddr) -> Result<serde_json::Value, String> {
    let headers = [("Content-Type", "application/json")];
    let answer = http::post(address, "/", &headers, br#"{"n":1}"#);
    let answer = answer.map_err(|error| error.to_string())?;
    match answer.code {
        200 => Ok(answer.json()),
        code => Err(format!("{code}: {}", answer.body)),
    }
}

#[test]
fn a_request_is_answered_though_the_clocks_of_both_machines_differ() {
    let broker = Broker::shared();
    for (app, asker_s, handler_s) in [("asker-behind", -45, 0), ("handler-ahead", 0, 45)] {
        let address = free_address();
        let manifest = format!(
            "[app]\nname = \"{app}\"\ntransport = \"{}\"\n[admin]\nlisten = \"off\"\n\
             [services.front]\nuse = \"http-in\"\nout = \"questions\"\n\
             config = {{ listen = \"{address}\", reply = true }}\n\
             [services.answers]\nuse = \"map\"\nin = \"questions\"\nout = \"asked\"\n\
             config.to.n = \"msg.n * 10\"\n\
             [topics.asked]\nexternal = \"out\"\n",
            broker.url()
        );
        let (_asker, _folder) = start(&manifest, "front", asker_s);
        let (handler, _other_folder) = start(&manifest, "answers", handler_s);
        let answer = until("the caller gets the reply", PATIENCE, || {
            ask(address).map_err(|error| format!("{error}\n{}", handler.stderr()))
        });
        assert_eq!(answer, json!({"n": 10}));
    }
}
