//! Ports: the named, typed ends of a service.

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
            /// A port with this name; usable in a `const`.
            pub const fn new(name: &'static str) -> Self {
                Self { name: Cow::Borrowed(name), types: PhantomData }
            }

            /// A port whose name comes from the config.
            pub fn named(name: impl Into<String>) -> Self {
                Self { name: Cow::Owned(name.into()), types: PhantomData }
            }

            /// Its name in the manifest.
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
    /// Where messages of type `M` come in; each is answered with an `R`.
    ///
    /// ```
    /// use brickwork::Input;
    /// const REQUESTS: Input<String> = Input::new("requests");
    /// ```
    Input<M, R = ()>
}

port! {
    /// Where messages of type `M` go out.
    Output<M>
}

port! {
    /// Where questions of type `M` go out, each for a reply of type `R`.
    Request<M, R>
}

/// A beat of the clock, with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick(&'static str);

impl Tick {
    /// A tick with this name.
    pub const fn new(name: &'static str) -> Self {
        Self(name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.0
    }
}
