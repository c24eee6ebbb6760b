//! The objects on the broker that an app declares.

use std::fmt;

use lapin::ExchangeKind;
use lapin::types::{FieldTable, ShortString};

/// An object that must exist on the broker, or must not.
#[derive(Debug, Clone)]
pub(super) enum Declaration {
    Exchange {
        name: ShortString,
        kind: ExchangeKind,
        /// Receives the messages that no binding of this exchange takes.
        alternate: Option<ShortString>,
    },
    Queue {
        name: ShortString,
        arguments: FieldTable,
    },
    Binding {
        queue: ShortString,
        exchange: ShortString,
        key: ShortString,
    },
    /// A binding of a part of a keyed input.
    PartBinding {
        queue: ShortString,
        exchange: ShortString,
        key: ShortString,
    },
    /// A binding of an exchange to another one, from which it gets messages.
    ExchangeBinding {
        to: ShortString,
        from: ShortString,
        key: ShortString,
    },
    /// A queue that is declared when it is first used.
    LaterQueue { name: ShortString },
    /// A binding that must not exist.
    NoBinding {
        queue: ShortString,
        exchange: ShortString,
        key: ShortString,
    },
    /// An exchange of the app that must not exist.
    NoExchange { name: ShortString },
    /// A queue of the app that must not exist.
    NoQueue { name: ShortString },
    /// An external queue: it must exist and be readable.
    ExternalQueue { name: ShortString },
    /// An external exchange: it must exist.
    ExternalExchange { name: ShortString },
}

impl fmt::Display for Declaration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue { name, .. }
            | Self::ExternalQueue { name }
            | Self::LaterQueue { name }
            | Self::NoQueue { name } => {
                write!(f, "the queue {name}")
            }
            Self::Exchange { name, .. }
            | Self::ExternalExchange { name }
            | Self::NoExchange { name } => {
                write!(f, "the exchange {name}")
            }
            Self::Binding {
                queue,
                exchange,
                key,
            }
            | Self::PartBinding {
                queue,
                exchange,
                key,
            }
            | Self::NoBinding {
                queue,
                exchange,
                key,
            } => write!(f, "the binding of {key} from {exchange} to {queue}"),
            Self::ExchangeBinding { to, from, key } => {
                write!(f, "the binding of {key} from {from} to the exchange {to}")
            }
        }
    }
}
