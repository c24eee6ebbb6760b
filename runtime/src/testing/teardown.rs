//! The end of a test: a graceful stop, and the check that nothing is left behind.

use super::app::{PATIENCE, TestApp};
use crate::app::StopReport;

impl TestApp {
    /// Stops the app gracefully, and checks that nothing is left behind.
    ///
    /// # Panics
    /// If an instance is still alive, a spawned task still runs, a delivery was never settled,
    /// or a fault never struck.
    #[track_caller]
    pub fn stop(mut self) -> StopReport {
        match self.stop_and_check() {
            Ok(report) => report,
            Err(text) => panic!("{text}"),
        }
    }

    /// Stops the app and checks. The app is gone afterwards, even if a check fails.
    fn stop_and_check(&mut self) -> Result<StopReport, String> {
        let Some(app) = self.app.take() else {
            return Ok(StopReport::default());
        };
        let report = self.runtime.run(app.stop());
        let mut left = Vec::new();
        let tasks_ended = self.runtime.tasks_end(PATIENCE);
        if !tasks_ended && !self.leftover_tasks {
            left.push(
                "a task that a service spawned still runs: keep its handle, and abort it \
                 when the service is dropped"
                    .to_owned(),
            );
        }
        for (service, count) in self.live.all() {
            left.push(match count {
                1 => format!("{service} has 1 instance that is still alive"),
                count => format!("{service} has {count} instances that are still alive"),
            });
        }
        for delivery in self.recorder.unsettled() {
            left.push(format!("a delivery was never settled: {delivery}"));
        }
        let unmet = self.script.unmet();
        if !unmet.is_empty() {
            left.push(format!("faults never struck: {}", unmet.join(", ")));
        }
        match left.is_empty() {
            true => Ok(report),
            false => Err(format!("after the stop:\n  {}", left.join("\n  "))),
        }
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        // The test has failed already, and a second panic would abort the process.
        if std::thread::panicking() {
            return;
        }
        if let Err(text) = self.stop_and_check() {
            panic!("{text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::failure::Failure;
    use crate::names::QueueId;
    use crate::service::Service;
    use crate::service::{Context, Handle, Input, NoConfig, Ports};

    const NUMBERS: Input<u32> = Input::new("numbers");

    struct Sink;

    impl Service for Sink {
        const NAME: &'static str = "sink";
        type Config = NoConfig;

        fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
            ports.input(&NUMBERS);
        }

        async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
            Ok(Self)
        }
    }

    impl Handle<u32> for Sink {
        async fn handle(&mut self, _: u32, _: &mut Context) -> Result<(), Failure> {
            Ok(())
        }
    }

    fn panic_of(test: impl FnOnce()) -> String {
        let payload = catch_unwind(AssertUnwindSafe(test)).unwrap_err();
        payload.downcast_ref::<String>().unwrap().clone()
    }

    // The host releases every instance and delivery, so these tests keep one themselves.

    #[test]
    fn an_instance_that_is_still_alive_fails_the_test() {
        let app = TestApp::of::<Sink>(NoConfig {});
        assert_eq!(app.live.all(), [("sink".into(), 1)]);
        let _kept = app.live.count(&"sink".into());
        let panic = panic_of(|| drop(app));
        assert!(
            panic.contains("sink has 1 instance that is still alive"),
            "{panic}"
        );
    }

    #[test]
    fn a_delivery_that_was_never_settled_fails_the_test() {
        let app = TestApp::of::<Sink>(NoConfig {});
        let message = app.send(&NUMBERS, 1);
        app.idle();
        app.recorder
            .taken(&QueueId::new("sink", "numbers"), &message);
        let panic = panic_of(|| drop(app.stop()));
        let expected = format!("never settled: {} from sink.numbers", message.id);
        assert!(panic.contains(&expected), "{panic}");
    }
}
