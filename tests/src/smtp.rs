//! A small SMTP server that takes mails, refuses some, and misbehaves when it is told to.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// A mail that was taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// Recipients.
    pub to: Vec<String>,
    /// Head and body.
    pub text: String,
}

/// The behaviour for new and open connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// Takes mails. Recipients that begin with `refused` or `later` get 550 and 450.
    #[default]
    Normal,
    /// Answers nothing.
    Silent,
    /// Answers each command with 421 and closes the connection.
    Shutdown,
    /// Answers each command with bytes that are no SMTP.
    Garbage,
    /// Takes mails and closes the connection instead of the last answer.
    Forgetful,
}

#[derive(Debug, Default)]
struct State {
    mode: Mode,
    mails: Vec<Mail>,
    connections: usize,
    commands: usize,
}

/// A running server. Its threads end with their connections.
#[derive(Debug)]
pub struct Smtp {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Smtp {
    /// Starts a server on loopback.
    ///
    /// # Panics
    /// If there is no free port.
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::<Mutex<State>>::default();
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = shared.clone();
                state.lock().connections += 1;
                // A client that leaves ends its thread.
                std::thread::spawn(move || drop(serve(stream, &state)));
            }
        });
        Self { address, state }
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Sets the behaviour from now on.
    pub fn set(&self, mode: Mode) {
        self.state.lock().mode = mode;
    }

    /// Returns the mails that were taken over.
    pub fn mails(&self) -> Vec<Mail> {
        self.state.lock().mails.clone()
    }

    /// Returns the number of connections so far.
    pub fn connections(&self) -> usize {
        self.state.lock().connections
    }

    /// Returns the number of commands so far, with greetings.
    pub fn commands(&self) -> usize {
        self.state.lock().commands
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let mut stream = stream;
    let mut to = Vec::new();
    let mut command = "GREETING".to_owned();
    loop {
        let mode = {
            let mut state = state.lock();
            state.commands += 1;
            state.mode
        };
        let verb = command
            .split([' ', ':'])
            .next()
            .unwrap_or_default()
            .to_uppercase();
        let answer = match (mode, verb.as_str()) {
            (Mode::Silent, _) => {
                // Longer than any client waits.
                stream.set_read_timeout(Some(Duration::from_secs(600)))?;
                let _gone = lines.next();
                return Ok(());
            }
            (Mode::Shutdown, _) => {
                stream.write_all(b"421 4.3.2 shutting down\r\n")?;
                return Ok(());
            }
            (Mode::Garbage, _) => "\u{1}\u{2} hello?".to_owned(),
            (_, "GREETING") => "220 fake.example ready".to_owned(),
            (_, "EHLO" | "HELO" | "NOOP" | "RSET") => "250 fake.example".to_owned(),
            (_, "MAIL") => {
                to.clear();
                "250 sender".to_owned()
            }
            (_, "RCPT") => {
                let address = command
                    .split(['<', '>'])
                    .nth(1)
                    .unwrap_or_default()
                    .to_owned();
                match address.split('@').next().unwrap_or_default() {
                    name if name.starts_with("refused") => "550 5.1.1 no such user".to_owned(),
                    name if name.starts_with("later") => "450 4.2.0 greylisted".to_owned(),
                    _ => {
                        to.push(address);
                        "250 recipient".to_owned()
                    }
                }
            }
            (_, "DATA") => {
                stream.write_all(b"354 go on\r\n")?;
                let mut text = String::new();
                for line in lines.by_ref() {
                    let line = line?;
                    if line == "." {
                        break;
                    }
                    text.push_str(line.strip_prefix('.').unwrap_or(&line));
                    text.push('\n');
                }
                let mail = Mail {
                    to: to.clone(),
                    text,
                };
                state.lock().mails.push(mail);
                if mode == Mode::Forgetful {
                    return Ok(());
                }
                "250 taken".to_owned()
            }
            (_, "QUIT") => {
                stream.write_all(b"221 bye\r\n")?;
                return Ok(());
            }
            _ => "500 unknown".to_owned(),
        };
        stream.write_all(format!("{answer}\r\n").as_bytes())?;
        match lines.next() {
            Some(line) => command = line?,
            None => return Ok(()),
        }
    }
}
