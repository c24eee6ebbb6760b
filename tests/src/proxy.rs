//! A TCP proxy between an app and its broker that injects network faults: cuts, half-open
//! connections, delays, throttling, an end in the middle of a frame, refusal.
//!
//! The proxy owns connections on loopback and one thread; all of them end when it is dropped. The
//! test decides which fault happens and when; random choices come from its seed.

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

/// Maximum bytes that are forwarded in one piece.
const PIECE_BYTES: usize = 16 * 1024;
/// Bytes in which a client names itself; enough to identify it.
const GREETING_BYTES: usize = 2048;
/// Pieces that a throttled connection forwards per second.
const PIECES_A_SECOND: u64 = 50;

/// A proxy in front of one address.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Ways to end a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// RST to both sides at once; bytes in flight are lost.
    Reset,
    /// With FIN to both sides.
    Finish,
}

/// A selection of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// All open connections.
    All,
    /// Connections whose client sends this text in its first bytes.
    Saying(&'static str),
}

/// Direction of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client to the target.
    Up,
    /// From the target to the client.
    Down,
}

/// Speed of a connection. By default, bytes pass at once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// Delay of each piece; the next piece is read after it.
    pub delay: Duration,
    /// Maximum rate in each direction.
    pub bytes_per_second: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Line {
    weather: Weather,
    /// Directions, up and down, in which bytes are dropped silently.
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
    /// Speed of new connections.
    weather: Weather,
    wires: Vec<Arc<Wire>>,
    accepted: usize,
}

/// One connection through the proxy.
#[derive(Debug)]
struct Wire {
    line: watch::Sender<Line>,
    /// The connection is cut after this many bytes.
    bytes_left: AtomicU64,
    greeting: Mutex<Vec<u8>>,
}

impl Proxy {
    /// Listens on a free port and forwards to `target`.
    ///
    /// # Panics
    /// If there is no free port or thread.
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
                            // The proxy was stopped or dropped.
                            _ = told => {}
                        }
                    });
                    // Dropping the runtime ends the connections.
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

    /// Returns the address of the proxy.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the number of accepted connections; refused ones do not count.
    pub fn accepted(&self) -> usize {
        self.shared.state.lock().accepted
    }

    /// Returns the number of open connections.
    pub fn open(&self) -> usize {
        self.wires(Whose::All).len()
    }

    /// Ends connections.
    pub fn cut(&self, whose: Whose, how: Cut) {
        self.change(whose, |line| line.cut = Some(how));
    }

    /// Makes connections half open: no byte passes in this direction any more, not even the end
    /// of the stream, and neither side learns of it. They stay so, since a stream with a gap is
    /// useless.
    pub fn swallow(&self, whose: Whose, way: Way) {
        self.change(whose, |line| line.swallowed[way as usize] = true);
    }

    /// Ends connections after this many further bytes, both directions together: in the middle of
    /// a frame.
    pub fn cut_after(&self, whose: Whose, bytes: u64) {
        for wire in self.wires(whose) {
            wire.bytes_left.store(bytes, Relaxed);
        }
    }

    /// Sets the speed of open and new connections.
    pub fn weather(&self, weather: Weather) {
        self.shared.state.lock().weather = weather;
        self.change(Whose::All, |line| line.weather = weather);
    }

    /// Sets whether new connections are refused at once.
    pub fn refuse(&self, refuses: bool) {
        self.shared.state.lock().refuses = refuses;
    }

    /// Accepts new connections at full speed and lifts all throttling. Half-open and cut
    /// connections stay as they are.
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
            // A panic of the thread has ended its connections, too.
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

/// Makes the drop of a stream send RST instead of FIN.
fn reset(stream: &TcpStream) {
    // A closed stream needs no option.
    let _gone = stream.set_zero_linger();
}

/// One connection, to its end.
async fn carry(mut client: TcpStream, target: SocketAddr, wire: &Wire) {
    let Ok(mut server) = TcpStream::connect(target).await else {
        return reset(&client);
    };
    // The proxy adds no delay of its own.
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
            // A closed stream needs no shutdown.
            let _gone = (client.shutdown().await, server.shutdown().await);
        }
    }
}

/// Forwards bytes in one direction to the end of the stream. Fails if the receiver is gone or the
/// byte limit is reached.
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
            // One thread carries both directions.
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

    /// Returns a proxy, a client connected through it, and the server's end.
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
    fn a_cut_ends_both_sides_in_the_chosen_way() {
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
    fn a_half_open_connection_passes_one_direction_only_and_no_end() {
        let (proxy, mut client, mut server) = pair();
        proxy.swallow(Whose::All, Way::Up);
        client.write_all(b"lost").expect("no side learns of it");
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
    fn exactly_the_allowed_bytes_pass() {
        let (proxy, mut client, mut server) = pair();
        proxy.cut_after(Whose::All, 7);
        client.write_all(b"0123456789").expect("it is open");
        let mut heard = Vec::new();
        // A reset may drop bytes that were not read yet.
        let _reset = server.read_to_end(&mut heard);
        assert!(b"0123456".starts_with(&heard), "{heard:?}");
        assert!(client.read(&mut [0]).map_or(true, |read| read == 0));
    }

    #[test]
    fn weather_slows_connections_and_a_refused_client_is_told_at_once() {
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
