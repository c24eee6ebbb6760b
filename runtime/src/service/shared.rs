//! `Shared<T>`: the shared value of a service that is written with `#[service]`.

use std::any::Any;
use std::ops::Deref;
use std::sync::Arc;

use super::context::Context;

/// The value that all instances of a service in one process share, as parameter of a handler or
/// of `start`: a connection pool, a cache, a rate limit.
///
/// The function `share` of the service makes it, once, before the first instance starts. If that
/// fails, the start of the instance fails and is tried again. The value lives until the service
/// stops; a service that its supervisor restarts makes another one. Services in other processes
/// have values of their own.
///
/// ```
/// use std::sync::atomic::{AtomicU32, Ordering};
/// use brickwork::prelude::*;
///
/// #[derive(Default)]
/// struct Greeter;
///
/// /// Greets, and counts over all instances.
/// #[service]
/// impl Greeter {
///     async fn share() -> Result<AtomicU32> {
///         Ok(AtomicU32::new(1))
///     }
///
///     #[input]
///     fn names(&mut self, name: String, counter: Shared<AtomicU32>, greetings: Out<String>) -> Result {
///         let number = counter.fetch_add(1, Ordering::Relaxed);
///         greetings.emit(format!("Hello, {name}, you are number {number}!"))
///     }
/// }
/// # use brickwork::testing::TestApp;
/// # let app = TestApp::of::<Greeter>(NoConfig {});
/// # app.send(&Greeter::NAMES, "Ada".to_owned());
/// # assert_eq!(app.expect(&Greeter::GREETINGS), "Hello, Ada, you are number 1!");
/// ```
#[derive(Debug)]
pub struct Shared<T>(Arc<T>);

impl<T: Send + Sync + 'static> Shared<T> {
    #[doc(hidden)]
    pub fn of(cx: &Context) -> Self {
        let value = cx.shared_value.clone().and_then(|it| it.downcast().ok());
        Self(value.expect("`#[service]` keeps a value of this type at the start"))
    }

    /// Fails to compile if the shared value has another type.
    #[doc(hidden)]
    pub fn check(value: &Arc<T>) {
        let _ = value;
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl Context {
    /// Keeps the shared value for the parameters of handlers.
    #[doc(hidden)]
    pub fn keep_shared(&mut self, value: Arc<dyn Any + Send + Sync>) {
        self.shared_value = Some(value);
    }
}
