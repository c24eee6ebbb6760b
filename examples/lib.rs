//! Example applications. Each folder has a manifest and a README.
//!
//! | folder | shows |
//! | --- | --- |
//! | `1-hello` | a typed service and a plain actix actor (start here) |
//! | `2-github-alerts` | an application built from ready-made services, by a manifest alone |
//! | `3-shop` | typed services with a store each: crashes never lose or duplicate money and goods |
//! | `4-polyglot` | an app that works with programs in Node and Python, over RabbitMQ |
//! | `5-accounts` | an entity for each account: transfers with compensation, and reminders |
//! | `6-saas-sync` | SaaS products that fail all the time, by a manifest alone |
//! | `7-api` | an HTTP API over a service with a store |
