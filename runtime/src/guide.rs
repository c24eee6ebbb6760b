//! The guide: the manual in short chapters, from `runtime/guide/*.md`.
//!
//! The chapters link to each other by file name, so that the links work where the files are read as Markdown. In this
//! documentation the definitions below come first, and the first definition of a link counts.
//!
//! Every command, manifest and Rust block of the guide runs as a test (`tests/tests/guide`).
//!
//! | chapter | content |
//! | --- | --- |
//! | [getting-started](mod@getting_started) | A first app |
//! | [writing-a-service](mod@writing_a_service) | Service types in Rust |
//! | [databases](mod@databases) | PostgreSQL, SQLite and mail |
//! | [store](mod@store) | Effects exactly once |
//! | [entities](mod@entities) | An actor for each key, with a saved state |
//! | [sources](mod@sources) | Messages from outside |
//! | [outside](mod@outside) | Calling, polling and serving other systems; schedules |
//! | [presets](mod@presets) | Well-known products, to copy into a manifest |
//! | [manifest](mod@manifest) | Every key of the manifest |
//! | [expressions](mod@expressions) | Conditions and mappings in CEL |
//! | [transforms](mod@transforms) | Split, batch, validate, limit, delay, enrich, decode |
//! | [delivery](mod@delivery) | From queue to ack; retries, dead letters, outages |
//! | [keys](mod@keys) | Order by key |
//! | [supervision](mod@supervision) | Restarts, groups, giving up, stopping |
//! | [transports](mod@transports) | `memory:`, `embedded:`, RabbitMQ; leftovers |
//! | [rabbitmq](mod@rabbitmq) | Topology, wire format, external queues |
//! | [dead-letters](mod@dead_letters) | List, replay, discard, export |
//! | [trace](mod@trace) | The way of one message |
//! | [process-protocol](mod@process_protocol) | Services in any language |
//! | [many-processes](mod@many_processes) | One manifest on many machines |
//! | [metrics](mod@metrics) | Metrics, health and alerts |
//! | [security](mod@security) | Defaults, limits, secrets |
//! | [testing](mod@testing) | The test kit |
//! | [benchmarks](mod@benchmarks) | Figures, with their commands |
//! | [architecture](mod@architecture) | Two walks through the code |
//! | [contributing](mod@contributing) | Where to add a transport, a type, a verb, a metric, a key |

/// Makes one module for each chapter, with links between chapters that rustdoc can resolve.
macro_rules! chapters {
    ($($module:ident = $file:literal;)*) => {
        $(
            #[doc = "[getting-started]: crate::guide::getting_started"]
            #[doc = "[writing-a-service]: crate::guide::writing_a_service"]
            #[doc = "[databases]: crate::guide::databases"]
            #[doc = "[store]: crate::guide::store"]
            #[doc = "[entities]: crate::guide::entities"]
            #[doc = "[sources]: crate::guide::sources"]
            #[doc = "[outside]: crate::guide::outside"]
            #[doc = "[presets]: crate::guide::presets"]
            #[doc = "[manifest]: crate::guide::manifest"]
            #[doc = "[expressions]: crate::guide::expressions"]
            #[doc = "[transforms]: crate::guide::transforms"]
            #[doc = "[delivery]: crate::guide::delivery"]
            #[doc = "[keys]: crate::guide::keys"]
            #[doc = "[supervision]: crate::guide::supervision"]
            #[doc = "[transports]: crate::guide::transports"]
            #[doc = "[rabbitmq]: crate::guide::rabbitmq"]
            #[doc = "[dead-letters]: crate::guide::dead_letters"]
            #[doc = "[trace]: crate::guide::trace"]
            #[doc = "[process-protocol]: crate::guide::process_protocol"]
            #[doc = "[many-processes]: crate::guide::many_processes"]
            #[doc = "[metrics]: crate::guide::metrics"]
            #[doc = "[security]: crate::guide::security"]
            #[doc = "[testing]: crate::guide::testing"]
            #[doc = "[benchmarks]: crate::guide::benchmarks"]
            #[doc = "[architecture]: crate::guide::architecture"]
            #[doc = "[contributing]: crate::guide::contributing"]
            #[doc = ""]
            #[doc = include_str!(concat!("../guide/", $file, ".md"))]
            pub mod $module {}
        )*
    };
}

chapters! {
    getting_started = "getting-started";
    writing_a_service = "writing-a-service";
    databases = "databases";
    store = "store";
    entities = "entities";
    sources = "sources";
    outside = "outside";
    presets = "presets";
    manifest = "manifest";
    expressions = "expressions";
    transforms = "transforms";
    delivery = "delivery";
    keys = "keys";
    supervision = "supervision";
    transports = "transports";
    rabbitmq = "rabbitmq";
    dead_letters = "dead-letters";
    trace = "trace";
    process_protocol = "process-protocol";
    many_processes = "many-processes";
    metrics = "metrics";
    security = "security";
    testing = "testing";
    benchmarks = "benchmarks";
    architecture = "architecture";
    contributing = "contributing";
}
