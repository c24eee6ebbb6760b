//! Service threads: threads beside the workers, for servers that must answer while a worker is
//! blocked.
//!
//! Each thread has a small runtime of its own, gets a stop signal, and is joined.

use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::sync::watch;

/// A thread that serves until it gets the stop signal. Dropping this sends it.
#[derive(Debug)]
pub(crate) struct ServiceThread {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// Tells a thread to stop.
#[derive(Debug, Clone)]
pub(crate) struct StopSignal(watch::Receiver<bool>);

impl StopSignal {
    /// Creates a signal that a test sends.
    #[cfg(test)]
    pub(crate) fn by_hand() -> (watch::Sender<bool>, Self) {
        let (stop, stopping) = watch::channel(false);
        (stop, Self(stopping))
    }

    /// Waits for the signal.
    pub(crate) async fn asked(&mut self) {
        // A thread whose owner is gone stops, too.
        let _gone = self.0.wait_for(|stop| *stop).await;
    }
}

impl ServiceThread {
    /// Starts a thread with a runtime of its own. The thread calls `begin`, and then runs the
    /// future that it returned.
    ///
    /// # Errors
    /// The error of `begin`, or that of the operating system.
    pub(crate) fn start<F>(
        name: &str,
        begin: impl FnOnce(StopSignal) -> io::Result<F> + Send + 'static,
    ) -> io::Result<Self>
    where
        F: Future<Output = ()>,
    {
        let stop = watch::Sender::new(false);
        let stopping = StopSignal(stop.subscribe());
        let (begun, beginning) = mpsc::sync_channel(1);
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let serving = runtime.and_then(|runtime| {
                let serving = {
                    let _entered = runtime.enter();
                    begin(stopping)?
                };
                Ok((runtime, serving))
            });
            let (outcome, serving) = match serving {
                Ok(serving) => (Ok(()), Some(serving)),
                Err(error) => (Err(error), None),
            };
            // The caller waits for this.
            let _gone = begun.send(outcome);
            if let Some((runtime, serving)) = serving {
                runtime.block_on(serving);
            }
        };
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(run)?;
        let begun = beginning.recv();
        let service_thread = Self {
            stop,
            thread: Some(thread),
        };
        match begun {
            Ok(outcome) => outcome.map(|()| service_thread),
            Err(mpsc::RecvError) => Err(io::Error::other(format!(
                "the thread {name} ended while it started"
            ))),
        }
    }

    /// Stops the thread and waits for its end.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // If the thread panicked, the panic hook has logged it.
            let _logged = thread.join();
        }
    }
}

impl Drop for ServiceThread {
    fn drop(&mut self) {
        self.end();
    }
}
