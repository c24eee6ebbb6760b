//! A TCP proxy between an app and its broker that does what networks do: cuts, goes half
//! open, delays, throttles, ends in the middle of a frame, refuses.
//!
//! Owns connections on loopback and one thread; all of it ends when it is dropped. It
//! decides nothing: a test says what happens and when, and draws that from a seed if it
//! draws it at all.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

/// Passed on in one piece at most.
const PIECE_BYTES: usize = 16 * 1024;
/// Enough to find who connects: what a client says of itself comes first.
const GREETING_BYTES: usize = 2048;
/// A throttled connection passes a piece so often.
const PIECES_A_SECOND: u64 = 50;

/// A proxy in front of one address.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// How a connection is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// At once, with RST to both sides; what was under way is lost.
    Reset,
    /// With FIN to both sides.
    Finish,
}

/// Which connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// All that are open.
    All,
    /// Those whose client says this in its first words.
    Saying(&'static str),
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From who connected to whom the proxy stands for.
    Up,
    /// From there back.
    Down,
}

/// What a connection is like. By default everything passes at once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// Each piece waits so long before it is passed on; the next one is read after that.
    pub delay: Duration,
    /// So much passes, each way.
    pub bytes_per_second: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Line {
    weather: Weather,
    /// Nothing passes up, down; and nobody is told.
    swallowed: [bool; 2],
    cut: Option<Cut>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    refuses: bool,
    /// What new connections are like.
    weather: Weather,
    wires: Vec<Arc<Wire>>,
    accepted: usize,
}

/// One connection through the proxy.
#[derive(Debug)]
struct Wire {
    line: watch::Sender<Line>,
    /// It is cut once so much has passed.
    bytes_left: AtomicU64,
    greeting: Mutex<Vec<u8>>,
}

impl Proxy {
    /// Listens on a free port, for who wants to reach `target`.
    ///
    /// # Panics
    /// There is no free port or thread.
    pub fn start(target: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            target,
            state: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let listener = runtime
            .block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .expect("loopback has free ports");
        let address = listener.local_addr().expect("it is bound");
        let (stop, told) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("proxy".into())
            .spawn({
                let shared = shared.clone();
                move || {
                    runtime.block_on(async {
                        tokio::select! {
                            () = accept(listener, &shared) => {}
                            // Told, or nobody is left to tell.
                            _ = told => {}
                        }
                    });
                    // With the runtime go the connections.
                }
            })
            .expect("a thread can be started");
        Self {
            address,
            shared,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it has taken so far; refused ones are not among them.
    pub fn accepted(&self) -> usize {
        self.shared.state.lock().accepted
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.wires(Whose::All).len()
    }

    /// Ends connections.
    pub fn cut(&self, whose: Whose, how: Cut) {
        self.change(whose, |line| line.cut = Some(how));
    }

    /// Connections go half open: nothing passes that way any more, not even their end,
    /// and nobody is told. They stay so: a stream with a hole in it is of no use.
    pub fn swallow(&self, whose: Whose, way: Way) {
        self.change(whose, |line| line.swallowed[way as usize] = true);
    }

    /// Ends connections after so many more bytes, counted both ways together: in the
    /// middle of whatever that is.
    pub fn cut_after(&self, whose: Whose, bytes: u64) {
        for wire in self.wires(whose) {
            wire.bytes_left.store(bytes, Relaxed);
        }
    }

    /// What connections are like from now on, the open ones and new ones.
    pub fn weather(&self, weather: Weather) {
        self.shared.state.lock().weather = weather;
        self.change(Whose::All, |line| line.weather = weather);
    }

    /// Whether who connects is turned away at once.
    pub fn refuse(&self, refuses: bool) {
        self.shared.state.lock().refuses = refuses;
    }

    /// New connections are like any other, and open ones as fast; what was swallowed or
    /// cut stays so.
    pub fn heal(&self) {
        self.refuse(false);
        self.weather(Weather::default());
    }

    fn wires(&self, whose: Whose) -> Vec<Arc<Wire>> {
        let state = self.shared.state.lock();
        let wires = state.wires.iter().filter(|wire| match whose {
            Whose::All => true,
            Whose::Saying(text) => contains(&wire.greeting.lock(), text.as_bytes()),
        });
        wires.cloned().collect()
    }

    fn change(&self, whose: Whose, change: impl Fn(&mut Line)) {
        for wire in self.wires(whose) {
            wire.line.send_modify(&change);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // If it has panicked, its connections are gone all the same.
            let _panicked = thread.join();
        }
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

async fn accept(listener: TcpListener, shared: &Arc<Shared>) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        let wire = {
            let mut state = shared.state.lock();
            if state.refuses {
                drop(state);
                reset(&client);
                continue;
            }
            let line = Line {
                weather: state.weather,
                ..Line::default()
            };
            let wire = Arc::new(Wire {
                line: watch::Sender::new(line),
                bytes_left: AtomicU64::new(u64::MAX),
                greeting: Mutex::default(),
            });
            state.accepted += 1;
            state.wires.push(wire.clone());
            wire
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            carry(client, shared.target, &wire).await;
            let mut state = shared.state.lock();
            state.wires.retain(|other| !Arc::ptr_eq(other, &wire));
        });
    }
}

/// Its drop will send RST instead of FIN.
fn reset(stream: &TcpStream) {
    // One that is gone needn't be told.
    let _gone = stream.set_zero_linger();
}

/// One connection, to its end.
async fn carry(mut client: TcpStream, target: SocketAddr, wire: &Wire) {
    let Ok(mut server) = TcpStream::connect(target).await else {
        return reset(&client);
    };
    // What isn't delayed on purpose isn't delayed.
    let _slower = client.set_nodelay(true).and(server.set_nodelay(true));
    let how = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let mut line = wire.line.subscribe();
        tokio::select! {
            ended = async {
                tokio::try_join!(
                    pass(from_client, to_server, Way::Up, wire),
                    pass(from_server, to_client, Way::Down, wire),
                )
            } => match ended {
                Ok(_) => Cut::Finish,
                Err(_) => Cut::Reset,
            },
            cut = line.wait_for(|line| line.cut.is_some()) => {
                cut.ok().and_then(|line| line.cut).unwrap_or(Cut::Reset)
            }
        }
    };
    match how {
        Cut::Reset => [&client, &server].into_iter().for_each(reset),
        Cut::Finish => {
            // One that is gone needn't be told.
            let _gone = (client.shutdown().await, server.shutdown().await);
        }
    }
}

/// Passes on what comes, one way, to its end. Fails if there is nobody to pass it to, or
/// when enough has passed.
async fn pass(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    way: Way,
    wire: &Wire,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    let is_swallowed = || wire.line.borrow().swallowed[way as usize];
    loop {
        let rate = wire.line.borrow().weather.bytes_per_second;
        let most = rate.map_or(PIECE_BYTES, |rate| (rate / PIECES_A_SECOND) as usize);
        let read = from.read(&mut piece[..most.clamp(1, PIECE_BYTES)]).await?;
        let piece = &piece[..read];
        if way == Way::Up {
            let mut greeting = wire.greeting.lock();
            if greeting.len() < GREETING_BYTES {
                greeting.extend_from_slice(piece);
            }
        }
        let weather = wire.line.borrow().weather;
        let mut wait = weather.delay;
        if let Some(rate) = weather.bytes_per_second {
            wait += Duration::from_micros(read as u64 * 1_000_000 / rate.max(1));
        }
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        match (is_swallowed(), read) {
            (true, 0) => return Ok(()),
            (true, _) => continue,
            (false, 0) => return to.shutdown().await,
            (false, _) => {}
        }
        let left = wire.bytes_left.load(Relaxed);
        let passes = read.min(usize::try_from(left).unwrap_or(usize::MAX));
        if left != u64::MAX {
            // Both ways are carried by one thread.
            wire.bytes_left.store(left - passes as u64, Relaxed);
        }
        to.write_all(&piece[..passes]).await?;
        if passes < read {
            return Err(io::Error::other("enough has passed"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net;
    use std::time::Instant;

    use super::*;
    use crate::process::until;

    const SOON: Duration = Duration::from_secs(10);

    /// A proxy, and who connected through it, and who was reached.
    fn pair() -> (Proxy, net::TcpStream, net::TcpStream) {
        let listener = net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let proxy = Proxy::start(listener.local_addr().expect("an address"));
        let mut client = net::TcpStream::connect(proxy.address()).expect("it accepts");
        let (mut server, _) = listener.accept().expect("it passes connections on");
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(SOON)).expect("a time-out");
        }
        let mut heard = [0; 5];
        client.write_all(b"hello").expect("it is open");
        server.read_exact(&mut heard).expect("it passes on");
        assert_eq!(&heard, b"hello");
        (proxy, client, server)
    }

    #[test]
    fn what_is_cut_ends_for_both_as_it_was_cut() {
        let (proxy, mut client, mut server) = pair();
        proxy.cut(Whose::Saying("hello"), Cut::Finish);
        assert_eq!(client.read(&mut [0]).expect("it ends in order"), 0);
        assert_eq!(server.read(&mut [0]).expect("it ends in order"), 0);
        let (proxy, mut client, mut server) = pair();
        proxy.cut(Whose::Saying("good-bye"), Cut::Reset);
        assert_eq!(proxy.open(), 1, "not these");
        proxy.cut(Whose::All, Cut::Reset);
        for side in [&mut client, &mut server] {
            let error = side.read(&mut [0]).expect_err("it doesn't end in order");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        until("it is forgotten", SOON, || match proxy.open() {
            0 => Ok(()),
            open => Err(open.to_string()),
        });
    }

    #[test]
    fn a_half_open_connection_passes_one_way_only_and_not_its_end() {
        let (proxy, mut client, mut server) = pair();
        proxy.swallow(Whose::All, Way::Up);
        client.write_all(b"lost").expect("nobody is told");
        server.write_all(b"back").expect("it is open");
        let mut heard = [0; 4];
        client.read_exact(&mut heard).expect("this way it passes");
        assert_eq!(&heard, b"back");
        client.shutdown(net::Shutdown::Write).expect("it is open");
        server
            .set_read_timeout(Some(Duration::from_millis(200)))
            .expect("a time-out");
        let error = server.read(&mut [0]).expect_err("nothing comes");
        assert!(matches!(
            error.kind(),
            ErrorKind::WouldBlock | ErrorKind::TimedOut
        ));
    }

    #[test]
    fn so_many_bytes_pass_and_not_one_more() {
        let (proxy, mut client, mut server) = pair();
        proxy.cut_after(Whose::All, 7);
        client.write_all(b"0123456789").expect("it is open");
        let mut heard = Vec::new();
        // With the reset may go what was not read yet.
        let _reset = server.read_to_end(&mut heard);
        assert!(b"0123456".starts_with(&heard), "{heard:?}");
        assert!(client.read(&mut [0]).map_or(true, |read| read == 0));
    }

    #[test]
    fn weather_slows_down_and_who_is_refused_is_told_at_once() {
        let (proxy, mut client, mut server) = pair();
        let mut heard = [0; 1000];
        proxy.weather(Weather {
            bytes_per_second: Some(5_000),
            ..Weather::default()
        });
        let began = Instant::now();
        client.write_all(&[7; 1000]).expect("it is open");
        server.read_exact(&mut heard).expect("it passes");
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(150), "{took:?}");
        proxy.refuse(true);
        let mut late = net::TcpStream::connect(proxy.address()).expect("it listens");
        late.set_read_timeout(Some(SOON)).expect("a time-out");
        assert!(late.read(&mut [0]).map_or(true, |read| read == 0));
        proxy.heal();
        let began = Instant::now();
        client.write_all(&[7; 1000]).expect("it stayed open");
        server.read_exact(&mut heard).expect("it passes");
        assert!(began.elapsed() < SOON);
        assert_eq!((proxy.accepted(), proxy.open()), (1, 1));
    }
}
