//! Demo applications, each a folder with its manifest and a README.
//!
//! | folder | what it shows |
//! | --- | --- |
//! | `1-hello` | a typed service of one's own, and a plain actix actor (start here) |
//! | `2-github-alerts` | an application of ready-made parts, by a manifest alone |
//! | `4-polyglot` | an app among programs in Node and Python, over RabbitMQ |
//! | `3-shop` | typed services, each with a store: money and goods are conserved, whatever is killed |
