//! Threads aside from the workers: what must answer also while a worker is blocked.
//!
//! Each has a small runtime of its own, is told to stop, and is joined.

use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::sync::watch;

/// A thread that serves until it is told to stop. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct ServiceThread {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// Resolves when the thread is to stop.
#[derive(Debug, Clone)]
pub(crate) struct StopSignal(watch::Receiver<bool>);

impl StopSignal {
    /// One that a test decides about.
    #[cfg(test)]
    pub(crate) fn by_hand() -> (watch::Sender<bool>, Self) {
        let (stop, stopping) = watch::channel(false);
        (stop, Self(stopping))
    }

    pub(crate) async fn asked(&mut self) {
        // A thread whose owner is gone stops, too.
        let _gone = self.0.wait_for(|stop| *stop).await;
    }
}

impl ServiceThread {
    /// Starts a thread that begins with `begin`, on a runtime of its own, and then
    /// drives the future that it gave until that ends.
    ///
    /// # Errors
    /// What `begin` says, or why there is no thread.
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
            // Whoever starts it waits for this.
            let _gone = begun.send(outcome);
            if let Some((runtime, serving)) = serving {
                runtime.block_on(serving);
            }
        };
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(run)?;
        let begun = beginning.recv();
        let aside = Self {
            stop,
            thread: Some(thread),
        };
        match begun {
            Ok(outcome) => outcome.map(|()| aside),
            Err(mpsc::RecvError) => Err(io::Error::other(format!(
                "the thread {name} ended while it began"
            ))),
        }
    }

    /// Tells the thread to stop and waits until it has.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // The panic hook has logged it if it panicked.
            let _logged = thread.join();
        }
    }
}

impl Drop for ServiceThread {
    fn drop(&mut self) {
        self.end();
    }
}
