//! The shipped binary with ten idle services, and with a thousand in ten groups: resident memory,
//! and time from start to ready. Build it first: `cargo build --release`.
//!
//! `cargo bench -p brickwork-bench --bench footprint`

#![allow(missing_docs, reason = "a program")]

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use brickwork_bench::rounds::{machine, median};

const ROUNDS: usize = 9;

fn is_ready(address: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "GET /health/ready HTTP/1.0\r\nHost: {address}\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split(' ').nth(1) == Some("200"))
}

fn main() {
    let binary = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/release/brickwork");
    assert!(binary.exists(), "build it first: cargo build --release");
    let size = std::fs::metadata(&binary).expect("it is there").len();
    println!(
        "{}\n\nthe binary has {:.1} MB",
        machine(),
        size as f64 / 1e6
    );
    measure(&binary, 10, 0);
    measure(&binary, 1_000, 10);
}

/// Starts and stops an app with this many services and groups, round by round.
fn measure(binary: &Path, services: usize, groups: usize) {
    let (mut times, mut memory) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let folder = std::env::temp_dir().join(format!("brickwork-bench-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        let address = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
        let address = address.expect("there are free ports");
        std::fs::write(folder.join("app.toml"), manifest(address, services, groups))
            .expect("it can be written");
        let started = Instant::now();
        let mut child = Command::new(binary)
            .args(["run", "app.toml"])
            .current_dir(&folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it runs");
        while !is_ready(address).unwrap_or(false) {
            assert!(started.elapsed() < Duration::from_secs(10), "not ready");
            std::thread::sleep(Duration::from_micros(200));
        }
        times.push(started.elapsed().as_secs_f64() * 1e3);
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
        let status = status.expect("it runs");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap_or("");
        let kib = line
            .split_whitespace()
            .nth(1)
            .and_then(|kb| kb.parse::<f64>().ok());
        memory.push(kib.expect("a number") * 1024.0 / 1e6);
        child.kill().expect("it runs");
        child.wait().expect("it ends");
        std::fs::remove_dir_all(&folder).expect("it was there");
    }
    println!(
        "{services} idle services: ready in {:.1} ms, {:.1} MB resident (medians of {ROUNDS})",
        median(&mut times),
        median(&mut memory)
    );
}

fn manifest(address: SocketAddr, services: usize, groups: usize) -> String {
    let mut manifest = format!(
        "[app]\nname = \"idle\"\ntransport = \"memory:\"\n[admin]\nlisten = \"{address}\"\n\
         [topics.t]\nexternal = \"in\"\n[topics.u]\nexternal = \"out\"\n"
    );
    for n in 0..services {
        write!(
            manifest,
            "[services.s{n}]\nuse = \"filter\"\nin = \"t\"\nout = \"u\"\n\
             config.when = \"msg.n > {n}\"\n"
        )
        .expect("writing to a string succeeds");
    }
    for group in 0..groups {
        let members = (group..services).step_by(groups);
        let members: Vec<String> = members.map(|n| format!("\"s{n}\"")).collect();
        let members = members.join(", ");
        write!(manifest, "[groups.g{group}]\nservices = [{members}]\n")
            .expect("writing to a string succeeds");
    }
    manifest
}
