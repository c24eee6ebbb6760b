//! Ports: the named, typed inputs and outputs of a service.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

macro_rules! port {
    ($(#[$doc:meta])* $name:ident<$($parameter:ident $(= $default:ty)?),*>) => {
        $(#[$doc])*
        pub struct $name<$($parameter $(= $default)?),*> {
            name: Cow<'static, str>,
            types: PhantomData<fn() -> ($($parameter,)*)>,
        }

        impl<$($parameter),*> $name<$($parameter),*> {
            /// Creates a port with this name, also in a `const`.
            pub const fn new(name: &'static str) -> Self {
                Self { name: Cow::Borrowed(name), types: PhantomData }
            }

            /// Creates a port whose name comes from the config.
            pub fn named(name: impl Into<String>) -> Self {
                Self { name: Cow::Owned(name.into()), types: PhantomData }
            }

            /// Returns the name in the manifest.
            pub fn name(&self) -> &str {
                &self.name
            }
        }

        impl<$($parameter),*> Clone for $name<$($parameter),*> {
            fn clone(&self) -> Self {
                Self { name: self.name.clone(), types: PhantomData }
            }
        }

        impl<$($parameter),*> fmt::Debug for $name<$($parameter),*> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.name).finish()
            }
        }
    };
}

port! {
    /// An input for messages of type `M`; the handler returns a reply of type `R`.
    ///
    /// ```
    /// use brickwork::Input;
    /// const REQUESTS: Input<String> = Input::new("requests");
    /// ```
    Input<M, R = ()>
}

port! {
    /// An output for messages of type `M`.
    ///
    /// ```
    /// use brickwork::Output;
    /// const RESULTS: Output<u64> = Output::new("results");
    /// ```
    Output<M>
}

port! {
    /// An output for requests of type `M`; another service replies with an `R`.
    ///
    /// ```
    /// use brickwork::Request;
    /// const PRICE: Request<String, f64> = Request::new("price");
    /// ```
    Request<M, R>
}

/// The name of a periodic hook: see [`Ports::tick`](crate::Ports::tick).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick(&'static str);

impl Tick {
    /// Creates a tick with this name.
    pub const fn new(name: &'static str) -> Self {
        Self(name)
    }

    /// Returns the name.
    pub fn name(self) -> &'static str {
        self.0
    }
}
