//! Standard error, without waiting for its reader.
//!
//! Logging does not wait for a reader of stderr: a pipe that is full and that no process
//! reads would otherwise stop handlers and the stop of the app. Lines that can't be written at
//! once are left to a thread; lines without room there are dropped and counted.

use std::io::{self, Write};
use std::process;
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::warn;

/// Bytes that wait for the thread. A longer line is taken if no other line waits.
const WAITING_BYTES_MAX: usize = 1024 * 1024;
/// Time that a line waits for room. If none is made, further lines don't wait until the thread
/// has written again.
const ROOM_TIMEOUT: Duration = Duration::from_millis(20);
/// Time that the end of the process waits for the lines before it.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// A pipe that is writable takes this many bytes at once: `PIPE_BUF` of Linux.
const AT_ONCE_BYTES_MAX: usize = 4096;

static STDERR: LazyLock<Queue> = LazyLock::new(|| {
    let queue = Queue::new(write_at_once);
    let thread = thread::Builder::new().name("stderr".to_owned());
    // Without a thread, lines are dropped once the queue is full.
    let _no_thread = thread.spawn(|| STDERR.write_to(io::stderr()));
    queue
});

/// Writes whole lines. Waits for a moment at most.
pub(crate) fn write(lines: &str) {
    STDERR.push(lines.as_bytes());
}

/// Writes one line, formatted like `eprintln!`.
macro_rules! error_line {
    ($($argument:tt)*) => {
        $crate::stderr::write(&::std::format!("{}\n", ::std::format_args!($($argument)*)))
    };
}
pub(crate) use error_line;

/// Returns the number of lines that were dropped since the process started.
pub(crate) fn lines_dropped() -> u64 {
    STDERR.waiting.lock().dropped
}

/// Waits until every line is written, for a moment at most.
pub(crate) fn flush() {
    STDERR.flush(FLUSH_TIMEOUT);
}

/// Ends the process. The lines before are written first, if stderr is read.
pub(crate) fn exit(code: u8) -> ! {
    flush();
    process::exit(i32::from(code))
}

/// Writes to stderr if that needs no wait. Returns the number of bytes written.
fn write_at_once(lines: &[u8]) -> usize {
    let stderr = io::stderr();
    let mut polled = [PollFd::new(&stderr, PollFlags::OUT)];
    let is_writable = poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
        && polled[0].revents().contains(PollFlags::OUT);
    if lines.len() > AT_ONCE_BYTES_MAX || !is_writable {
        return 0;
    }
    stderr.lock().write(lines).unwrap_or(0)
}

/// Lines on their way to stderr.
struct Queue {
    /// Writes the beginning of some lines without waiting, and returns its length.
    write_at_once: fn(&[u8]) -> usize,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    text: Vec<u8>,
    /// Whether the thread is writing lines that it took.
    writing: bool,
    /// Whether a line was dropped since the thread last took lines.
    is_stuck: bool,
    dropped: u64,
}

impl Waiting {
    fn has_room(&self, bytes: usize) -> bool {
        self.text.is_empty() || self.text.len() + bytes <= WAITING_BYTES_MAX
    }
}

impl Queue {
    fn new(write_at_once: fn(&[u8]) -> usize) -> Self {
        Self {
            write_at_once,
            waiting: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn push(&self, mut lines: &[u8]) {
        let mut waiting = self.waiting.lock();
        if waiting.text.is_empty() && !waiting.writing {
            lines = &lines[(self.write_at_once)(lines)..];
            if lines.is_empty() {
                return;
            }
        }
        if !waiting.is_stuck {
            let is_full = |waiting: &mut Waiting| !waiting.has_room(lines.len());
            self.changed
                .wait_while_for(&mut waiting, is_full, ROOM_TIMEOUT);
        }
        if waiting.has_room(lines.len()) {
            waiting.text.extend_from_slice(lines);
        } else {
            waiting.is_stuck = true;
            waiting.dropped += 1;
        }
        drop(waiting);
        self.changed.notify_all();
    }

    fn flush(&self, within: Duration) {
        let mut waiting = self.waiting.lock();
        let is_busy = |waiting: &mut Waiting| waiting.writing || !waiting.text.is_empty();
        self.changed.wait_while_for(&mut waiting, is_busy, within);
    }

    /// Writes lines for ever.
    fn write_to(&self, mut out: impl Write) {
        let mut text = Vec::new();
        let mut reported = 0;
        loop {
            let dropped = self.take(&mut text);
            // If stderr is closed, there is no place to report that.
            let _closed = out.write_all(&text);
            text.clear();
            if dropped > reported {
                let lines = dropped - reported;
                reported = dropped;
                warn!(lines, "dropped log lines: stderr was not read in time");
            }
        }
    }

    /// Waits for lines and exchanges them with an empty buffer. Returns the number of lines
    /// dropped so far.
    fn take(&self, text: &mut Vec<u8>) -> u64 {
        let mut waiting = self.waiting.lock();
        waiting.writing = false;
        self.changed.notify_all();
        let is_idle = |waiting: &mut Waiting| waiting.text.is_empty();
        self.changed.wait_while(&mut waiting, is_idle);
        std::mem::swap(&mut waiting.text, text);
        waiting.writing = true;
        waiting.is_stuck = false;
        self.changed.notify_all();
        waiting.dropped
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
    use std::time::Instant;

    use super::*;

    /// A reader that takes one write at a time, when it is told to.
    struct Slow(Receiver<()>, SyncSender<Vec<u8>>);

    impl Write for Slow {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let _ended = self.0.recv();
            let _ended = self.1.send(text.to_vec());
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stops_delays_no_writer_and_costs_counted_lines() {
        let queue: &Queue = Box::leak(Box::new(Queue::new(|_| 0)));
        let (read, reads) = sync_channel(16);
        let (to_test, written) = sync_channel(16);
        thread::spawn(move || queue.write_to(Slow(reads, to_test)));
        let line = vec![b'x'; WAITING_BYTES_MAX / 8];
        let start = Instant::now();
        for _ in 0..100 {
            queue.push(&line);
        }
        queue.flush(Duration::from_millis(1));
        assert!(start.elapsed() < Duration::from_secs(5));
        let kept = 100 - queue.waiting.lock().dropped;
        assert!((8..100).contains(&kept), "{kept} of 100 lines were kept");

        // It reads again: every line that was kept comes out, and later ones have room.
        let mut bytes = 0;
        while bytes < kept as usize * line.len() {
            read.send(()).expect("the thread reads");
            bytes += written.recv().expect("the thread writes").len();
        }
        queue.push(b"later");
        read.send(()).expect("the thread reads");
        assert_eq!(written.recv().expect("the thread writes"), b"later");
    }

    #[test]
    fn a_flush_ends_after_the_last_line() {
        let queue: &Queue = Box::leak(Box::new(Queue::new(|_| 0)));
        let (read, reads) = sync_channel(16);
        let (to_test, written) = sync_channel(16);
        thread::spawn(move || queue.write_to(Slow(reads, to_test)));
        queue.push(b"last");
        read.send(()).expect("the thread reads");
        queue.flush(Duration::from_secs(60));
        assert_eq!(written.try_recv().expect("it is written"), b"last");
    }
}
