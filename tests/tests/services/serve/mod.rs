//! An HTTP API by the shipped binary: routes, answers, OpenAPI, and webhooks that leave.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use brickwork_tests::binary::brickwork;
use brickwork_tests::http::{self, Response};
use brickwork_tests::process::{Process, free_address, until};
use tempfile::TempDir;

mod api;
mod openapi;
mod receiver;
mod uploads;
mod webhooks;

const PATIENCE: Duration = Duration::from_secs(30);

/// A manifest that runs in the shipped binary.
struct App {
    folder: TempDir,
    address: SocketAddr,
    process: Process,
}

impl App {
    /// Starts an app whose manifest has `ADDRESS` where it listens.
    fn start(services: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let address = free_address();
        let process = run(folder.path(), address, services);
        Self {
            folder,
            address,
            process,
        }
    }

    fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Response {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}\
             Content-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        http::exchange(self.address, request.as_bytes()).expect("there is an answer")
    }

    fn get(&self, path: &str) -> Response {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.address
        );
        http::exchange(self.address, request.as_bytes()).expect("there is an answer")
    }

    fn post(&self, path: &str, body: &str) -> Response {
        self.send("POST", path, "Content-Type: application/json\r\n", body)
    }
}

fn run(folder: &Path, address: SocketAddr, services: &str) -> Process {
    let manifest = format!(
        "[app]\nname = \"api\"\ntransport = \"memory:\"\n[admin]\nlisten = \"off\"\n{}",
        services.replace("ADDRESS", &address.to_string())
    );
    std::fs::write(folder.join("app.toml"), manifest).expect("it can be written");
    let mut command = Command::new(brickwork());
    command.args(["run", "app.toml"]).current_dir(folder);
    let process = Process::start(command, folder, "it was just built");
    process.line(PATIENCE, |line| line.contains("runs:").then_some(()));
    until("it listens", PATIENCE, || {
        TcpStream::connect(address).map_err(|error| error.to_string())
    });
    process
}
