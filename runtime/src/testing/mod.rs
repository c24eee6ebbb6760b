//! Test kit for services and apps: everything runs in the test's process and thread, with a
//! clock of its own.
//!
//! A test sends messages and expects messages. Its code is not asynchronous and never sleeps:
//! the clock jumps to the next timer when no task can run, and so does the wall clock that
//! services see. An instance, a task or an unsettled delivery that is left behind fails the
//! test. The kit needs the feature `testing`, for `[dev-dependencies]`: the feature enables
//! tokio's test clock, which has no place in production.
//!
//! ```
//! # use brickwork::prelude::*;
//! # #[derive(Serialize, Deserialize, JsonSchema)]
//! # struct Reserve { quantity: u32 }
//! # #[derive(Serialize, Deserialize, JsonSchema)]
//! # struct Reserved { left: u32 }
//! # const REQUESTS: Input<Reserve> = Input::new("requests");
//! # const RESERVED: Output<Reserved> = Output::new("reserved");
//! # struct Stock(u32);
//! # impl Service for Stock {
//! #     const NAME: &'static str = "stock";
//! #     type Config = NoConfig;
//! #     fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
//! #         ports.input(&REQUESTS).output(&RESERVED);
//! #     }
//! #     async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> { Ok(Self(100)) }
//! # }
//! # impl Handle<Reserve> for Stock {
//! #     async fn handle(&mut self, wanted: Reserve, cx: &mut Context) -> Result<(), Failure> {
//! #         let left = self.0.checked_sub(wanted.quantity);
//! #         self.0 = left.ok_or_else(|| Failure::reject("not that many left"))?;
//! #         cx.emit(&RESERVED, Reserved { left: self.0 })
//! #     }
//! # }
//! use brickwork::testing::TestApp;
//!
//! let stock = TestApp::of::<Stock>(NoConfig {});
//! stock.send(&REQUESTS, Reserve { quantity: 3 });
//! assert_eq!(stock.expect(&RESERVED).left, 97);
//! stock.send(&REQUESTS, Reserve { quantity: 98 });
//! assert_eq!(stock.expect_dead_letter().dead_letter.error, "not that many left");
//! ```
//!
//! A whole app is tested through its topics, with JSON or with typed ports named like the
//! topics:
//!
//! ```
//! # use brickwork::prelude::*;
//! # const NUMBERS: Input<i64> = Input::new("in");
//! # const DOUBLES: Output<i64> = Output::new("out");
//! # struct Double;
//! # impl Service for Double {
//! #     const NAME: &'static str = "double";
//! #     type Config = NoConfig;
//! #     fn ports(_: &NoConfig, ports: &mut Ports<Self>) { ports.input(&NUMBERS).output(&DOUBLES); }
//! #     async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> { Ok(Self) }
//! # }
//! # impl Handle<i64> for Double {
//! #     async fn handle(&mut self, n: i64, cx: &mut Context) -> Result<(), Failure> {
//! #         cx.emit(&DOUBLES, 2 * n)
//! #     }
//! # }
//! use brickwork::testing::{Fault, FaultPoint, TestApp};
//!
//! let app = TestApp::of_manifest(
//!     r#"
//!         [app]
//!         name = "numbers"
//!         [services.double]
//!         in = "small"
//!         out = "big"
//!         [topics]
//!         small.external = "in"
//!         big.external = "out"
//!     "#,
//!     Catalog::new().with::<Double>(),
//! );
//! app.inject(Fault::fail(FaultPoint::Publish).of("double"));
//! app.send("small", serde_json::json!(21));
//! assert_eq!(app.expect("big"), 42);
//! app.stop();
//! ```
//!
//! # Map
//!
//! | module | content |
//! | --- | --- |
//! | `setup` | [`Setup`]: builds the app, with the decorators below |
//! | `app`, `pending_ask`, `teardown` | [`TestApp`]: send, expect, reply, stop |
//! | `recorder`, `letters` | messages on topics, requests to the test, dead letters |
//! | `transport`, `instance_tracking` | decorators: record events, let faults strike |
//! | `fault` | [`Fault`], and the [`FaultPoint`]s where one can strike |
//! | `sim_runtime` | the test's runtime and its virtual time |
//! | `report` | the events that a failed expectation prints |

mod app;
mod fault;
mod folder;
mod instance_tracking;
mod letters;
mod pending_ask;
mod ports;
mod recorder;
mod report;
mod routes;
mod setup;
mod sim_runtime;
mod teardown;
mod transport;

pub use app::{PATIENCE, TestApp};
pub use fault::{Fault, FaultPoint};
pub use letters::Letter;
pub use pending_ask::Question;
pub use ports::{Asks, Gives, Takes};
pub use setup::Setup;
