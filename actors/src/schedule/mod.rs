//! `schedule`: emits a message on a cron expression or an interval.
//!
//! | file | content |
//! | --- | --- |
//! | `timing` | the times of a schedule, over both turns of daylight saving |
//! | `decision` | the firings that are due: catch-up window, overlap, jitter |
//! | `timer` | the loop: one timer for all schedules of the service |
//! | `payload` | the messages |
//! | `saved` | the position |
//!
//! The id of a message is made of the service, the schedule and the scheduled time. A firing
//! that is repeated after a crash is the same message.

mod config;
mod decision;
mod payload;
mod saved;
mod timer;
mod timing;

use brickwork::prelude::*;

pub use config::{Entry as ScheduleEntry, ScheduleConfig};
pub use decision::Overlap;
pub(crate) use timing::Timing;
pub use timing::{CronText, Zone};

use crate::ports::OUT;

/// Maximum messages in flight.
const IN_FLIGHT: usize = 256;

/// Emits a message at scheduled times.
#[derive(Debug)]
pub struct Schedule;

impl Source for Schedule {
    const NAME: &'static str = "schedule";
    const SUMMARY: &'static str = "emits a message on a cron expression or an interval";
    const EXAMPLE: &'static str = r#"[services.clock]
use = "schedule"
out = "reports.due"
[services.clock.config]
zone = "Europe/Berlin"
jitter = "30s"
schedules.daily = { cron = "30 7 * * MON-FRI", payload = "{'since': msg.previous}" }
schedules.pulse = { every = "5m", catch_up = "1m" }
"#;
    const FAILURES: &'static [&'static str] = &[
        "emits late while a queue is too full or the transport is down: config.overlap says which firings",
        "emits a firing again under the same id when it is killed before its position is saved",
        "without a durable transport, knows no firings that a stop has missed",
        "skips a firing whose payload can't be made, with an error in the log",
    ];
    type Config = ScheduleConfig;

    fn ports(_: &ScheduleConfig, ports: &mut SourcePorts) {
        ports.output(&OUT);
    }

    fn check(config: &ScheduleConfig) -> Result<(), Vec<ConfigError>> {
        config.check()
    }

    fn in_flight(_: &ScheduleConfig) -> usize {
        IN_FLIGHT
    }

    async fn run(config: &ScheduleConfig, out: &mut SourceContext) -> Result<(), Failure> {
        let schedules = config.schedules(out.service());
        let timer = timer::Timer::new(schedules, out).await?;
        timer.run().await
    }
}

#[cfg(test)]
mod tests;
