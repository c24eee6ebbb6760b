//! Apps over RabbitMQ. Most tests share one private broker, each under an app name of its own.
//!
//! | module | promises on |
//! | --- | --- |
//! | `amqp` | the transport `amqp:` itself |
//! | `breaker` | circuit breakers |
//! | `check_connect` | `check --connect` |
//! | `clock_skew` | machines whose clocks differ |
//! | `delays` | delayed messages and retries |
//! | `dlq`, `dlq_running` | dead letters: list, replay, discard, export |
//! | `foreign` | external queues and exchanges |
//! | `fuzz` | random messages of other programs |
//! | `interop` | programs that speak AMQP without Brickwork |
//! | `isolation` | services in child processes |
//! | `keyed` | order by key: partitions |
//! | `long_handlers` | handlers that take longer than the broker waits for an ack |
//! | `many_processes` | one app in many processes |
//! | `poison` | a message that kills its process |
//! | `prune` | stale queues and bindings |
//! | `rights` | rights that are revoked |
//! | `secrets` | no secret is shown |
//! | `shipped` | the shipped binary and its commands |
//! | `sigterm` | graceful shutdown |
//! | `sizes` | messages of every size |
//! | `supervision` | restarts of groups |
//! | `tls` | TLS and credentials |
//! | `trace` | the history of a message |

mod amqp;
mod breaker;
mod check_connect;
mod clock_skew;
mod delays;
mod dlq;
mod dlq_running;
mod foreign;
mod fuzz;
mod interop;
mod isolation;
mod keyed;
mod long_handlers;
mod many_processes;
mod poison;
mod prune;
mod rights;
mod secrets;
mod shipped;
mod sigterm;
mod sizes;
mod supervision;
mod tls;
mod trace;
