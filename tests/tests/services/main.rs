//! Services in an app in the test's own process, most of them with virtual time.
//!
//! | module | promises on |
//! | --- | --- |
//! | `abuse` | services that panic in every hook or block their thread |
//! | `api` | `examples/7-api`: an HTTP API, with the shipped program |
//! | `asks` | requests between services |
//! | `attributes` | services that are written with attributes |
//! | `breaker` | circuit breakers, and failures that count against no service |
//! | `edges` | extreme values: infinite durations, slow ticks |
//! | `elastic` | autoscaling |
//! | `entities` | an actor for each key, with a saved state |
//! | `held` | the outbox while a queue is full |
//! | `http_call` | calls of an outside API that fails in every way |
//! | `keys` | order by key |
//! | `kit` | the test kit itself |
//! | `mailbox` | wake-ups of the mailbox, under a model checker |
//! | `poll` | the service type `poll`, through the shipped binary |
//! | `positions`, `positions_verb` | saved positions of sources |
//! | `presets` | the presets of the guide, against a server that answers as the products do |
//! | `pressure` | full queues and backpressure |
//! | `promises` | delivery and failure, the promises of every service |
//! | `saas` | `examples/6-saas-sync`, while its outside fails and the app is killed |
//! | `schedule` | the service type `schedule`, through the shipped binary |
//! | `serve` | an HTTP API by the shipped binary: answers, OpenAPI, webhooks |
//! | `service_api` | the API that services are written with |
//! | `stages` | the service types `dedup` and `aggregate` |
//! | `stopping` | graceful shutdown and its time limits |
//! | `store` | a service's own database, with inbox and outbox |
//! | `supervision` | starts, restarts and stops of services and their groups |
//! | `transforms` | service types that change, hold and join messages, through the shipped binary |
//! | `tree` | supervision, against a model |

mod abuse;
mod api;
mod asks;
mod attributes;
mod breaker;
mod edges;
mod elastic;
mod entities;
mod events;
mod held;
mod http_call;
mod keys;
mod kit;
mod mailbox;
mod poll;
mod positions;
mod positions_verb;
mod presets;
mod pressure;
mod promises;
mod saas;
mod schedule;
mod serve;
mod service_api;
mod stages;
mod stopping;
mod store;
mod supervision;
mod transforms;
mod tree;
