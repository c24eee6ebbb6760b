//! The end of a test: the app stops in order, and nothing may be left behind.

use super::app::{PATIENCE, TestApp};
use crate::app::StopReport;

impl TestApp {
    /// Stops the app in order, and looks whether anything is left behind.
    ///
    /// # Panics
    /// If an instance is still alive, a task that a service spawned still runs, a
    /// delivery was never settled, or a fault had no occasion to strike.
    #[track_caller]
    pub fn stop(mut self) -> StopReport {
        match self.end() {
            Ok(report) => report,
            Err(text) => panic!("{text}"),
        }
    }

    /// Stops and looks; the app is gone then, however it went.
    fn end(&mut self) -> Result<StopReport, String> {
        let Some(app) = self.app.take() else {
            return Ok(StopReport::default());
        };
        let report = self.universe.run(app.stop());
        let mut left = Vec::new();
        let tasks_ended = self.universe.ends(PATIENCE);
        if !tasks_ended && !self.leftover_tasks {
            left.push(
                "a task that a service spawned still runs: keep its handle, and abort it \
                 when the service is dropped"
                    .to_owned(),
            );
        }
        for (service, count) in self.census.alive() {
            left.push(match count {
                1 => format!("{service} has 1 instance that is still alive"),
                count => format!("{service} has {count} instances that are still alive"),
            });
        }
        for delivery in self.desk.unsettled() {
            left.push(format!("a delivery was never settled: {delivery}"));
        }
        let unmet = self.script.unmet();
        if !unmet.is_empty() {
            left.push(format!(
                "faults were injected in vain: {}",
                unmet.join(", ")
            ));
        }
        match left.is_empty() {
            true => Ok(report),
            false => Err(format!("after the stop:\n  {}", left.join("\n  "))),
        }
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        // A test that has failed already is told that once; and a panic here would end
        // the process.
        if std::thread::panicking() {
            return;
        }
        if let Err(text) = self.end() {
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

    // The host lets go of every instance and delivery: so here the kit itself keeps one.

    #[test]
    fn an_instance_that_is_still_alive_fails_the_test() {
        let app = TestApp::of::<Sink>(NoConfig {});
        assert_eq!(app.census.alive(), [("sink".into(), 1)]);
        let _kept = app.census.born(&"sink".into());
        let told = panic_of(|| drop(app));
        assert!(
            told.contains("sink has 1 instance that is still alive"),
            "{told}"
        );
    }

    #[test]
    fn a_delivery_that_was_never_settled_fails_the_test() {
        let app = TestApp::of::<Sink>(NoConfig {});
        let message = app.send(&NUMBERS, 1);
        app.idle();
        app.desk.taken(&QueueId::new("sink", "numbers"), &message);
        let told = panic_of(|| drop(app.stop()));
        let expected = format!("never settled: {} from sink.numbers", message.id);
        assert!(told.contains(&expected), "{told}");
    }
}
