//! The attributes of the crate `brickwork`, which exports them.
//!
//! Each attribute writes the code that a person would write over the public traits, and keeps
//! the bodies of functions as they are. A mistake is an error at the tokens of the user.

mod attributes;
mod block;
mod data;
mod entity;
mod function;
mod handler;
mod inputs;
mod names;
mod parameters;
mod service;
mod share;
mod source;

use proc_macro::TokenStream;

/// Makes a struct or an enum a message: a payload that is JSON on the wire, with a schema.
///
/// Derives `Debug`, `Clone`, `Serialize`, `Deserialize` and `JsonSchema`, each unless the item
/// derives it itself. Attributes of serde and schemars work as usual. Doc comments become
/// descriptions in the schema.
///
/// ```
/// use brickwork::prelude::*;
///
/// #[message]
/// #[serde(rename_all = "camelCase")]
/// struct Reserve {
///     /// Number on the package.
///     sku: String,
///     quantity: u32,
/// }
/// ```
#[proc_macro_attribute]
pub fn message(arguments: TokenStream, item: TokenStream) -> TokenStream {
    finish(data::message(arguments.into(), item.into()))
}

/// Makes a struct the config of a service type: each field is a setting, and a setting that the
/// manifest doesn't know is an error there.
///
/// A field without a value in the manifest has that of `#[default(…)]`, or of its type's
/// `Default`. A struct that derives `Default` keeps that. On an enum, for a setting with several
/// forms, there is no default.
///
/// ```
/// use brickwork::prelude::*;
///
/// #[config]
/// struct StockConfig {
///     /// Pieces on the shelf when the service starts.
///     #[default(10)]
///     pieces: u32,
///     shelf: Option<String>,
/// }
///
/// assert_eq!(StockConfig::default().pieces, 10);
/// ```
#[proc_macro_attribute]
pub fn config(arguments: TokenStream, item: TokenStream) -> TokenStream {
    finish(data::config(arguments.into(), item.into()))
}

/// Makes an `impl` block, or a function, a service type.
///
/// ```
/// use brickwork::prelude::*;
/// use brickwork::testing::TestApp;
///
/// #[message]
/// struct Reserve { sku: String, quantity: u32 }
///
/// #[message]
/// struct Reserved { sku: String, left: u32 }
///
/// struct Stock { left: u32 }
///
/// /// Reserves stock.
/// #[service]
/// impl Stock {
///     fn start() -> Result<Self> {
///         Ok(Self { left: 10 })
///     }
///
///     #[input]
///     async fn requests(&mut self, wanted: Reserve, reserved: Out<Reserved>) -> Result {
///         self.left = self.left.checked_sub(wanted.quantity)
///             .ok_or_else(|| Failure::reject("not that many left"))?;
///         reserved.emit(Reserved { sku: wanted.sku, left: self.left })
///     }
/// }
///
/// let app = TestApp::of::<Stock>(NoConfig {});
/// app.send(&Stock::REQUESTS, Reserve { sku: "tea".into(), quantity: 3 });
/// assert_eq!(app.expect(&Stock::RESERVED).left, 7);
/// ```
///
/// # Arguments
///
/// | argument | meaning | default |
/// | --- | --- | --- |
/// | `name = "stock"` | name in catalogs: `use = "stock"` | the type's name with dashes |
/// | `summary = "…"` | purpose, in one line | first paragraph of the doc comment |
/// | `config = StockConfig` | the config | that of `start` |
/// | `store = "migrations"` | folder of SQL files that begin with their number, beside `Cargo.toml`; or a constant with [`Migration`](../brickwork/sqlite/struct.Migration.html)s | no store |
/// | `key = "customer"` | field of the messages that is their key: messages of one key are handled one at a time, in order | no key |
/// | `example`, `failures` | as in the trait `Service` | none |
///
/// # Methods
///
/// | method | called |
/// | --- | --- |
/// | `#[input]` | for each message of the input with the method's name; `#[input("name")]` gives another name |
/// | `#[input(batch = 100, within = "1s")]` | for up to 100 messages as a `Vec<T>`; returns `Vec<Result>` |
/// | `#[input(first)]` | before messages of other inputs, such as a stop that must not wait behind work. While others wait, one of them follows every eight |
/// | `#[tick("10s")]` | at this interval; `#[tick(config.interval)]` takes a duration from the config |
/// | `start(&Config, &Context)` | for each new instance; both parameters may be left out. Without it the type needs `Default` |
/// | `share(&Config)` | once for all instances in a process, before they start, if a handler takes the value that it returns, as [`Shared<T>`](../brickwork/struct.Shared.html) |
/// | `stop(&mut self, &Context)` | when an instance ends in a graceful stop |
/// | `check(&Config)`, `concurrency(&Config)` | as in the trait `Service` |
///
/// Methods are `async` or not. They return `Result`, or `Result<T>` for a reply of type `T`, or
/// nothing if they can't fail. Other methods are not changed.
///
/// # Parameters
///
/// | parameter | meaning |
/// | --- | --- |
/// | `order: Order` | the message; `Raw` for any payload |
/// | `paid: Out<Paid>` | the output `paid` |
/// | `price: Ask<Query, Price>` | requests to the service that is connected to `price` |
/// | `meta: Meta` | id, type, headers, time and attempt of the message |
/// | `key: Key` | the key of the message, in a service with `key` |
/// | `pool: Shared<Pool>` | the value that `share` has made for all instances; also of `start` |
/// | `cx: &Context` | everything else |
/// | `tx: &mut Tx` | the transaction of the message: the function has no `self` and no `async`, and its outputs commit with it |
///
/// Each port is also a constant of the type: `Stock::REQUESTS`.
///
/// # Functions
///
/// A function is a service with the one input `in`. It may take its config by reference.
///
/// ```
/// use brickwork::prelude::*;
///
/// /// Counts the letters of a name.
/// #[service]
/// fn letters(name: String, counts: Out<usize>) -> Result {
///     counts.emit(name.chars().count())
/// }
///
/// let catalog = Catalog::new().with::<letters>();
/// ```
#[proc_macro_attribute]
pub fn service(arguments: TokenStream, item: TokenStream) -> TokenStream {
    finish(service::service(arguments.into(), item.into()))
}

/// Makes an `impl` block an entity type: an actor for each key, whose state is saved with each
/// message.
///
/// ```
/// use brickwork::prelude::*;
/// use brickwork::testing::TestApp;
///
/// #[message]
/// struct Deposit { account: String, cents: i64 }
///
/// #[message]
/// struct Balance { account: String, cents: i64 }
///
/// #[message]
/// #[derive(Default)]
/// struct Account { cents: i64 }
///
/// /// Accounts of customers.
/// #[entity(key = "account")]
/// impl Account {
///     #[input]
///     async fn deposit(&mut self, deposit: Deposit, balance: Out<Balance>) -> Result {
///         self.cents += deposit.cents;
///         balance.emit(Balance { account: deposit.account, cents: self.cents })
///     }
/// }
///
/// let app = TestApp::of_entity::<Account>(NoConfig {});
/// for (account, cents) in [("ada", 3), ("bob", 5), ("ada", 4)] {
///     app.send(&Account::DEPOSIT, Deposit { account: account.into(), cents });
/// }
/// let balances = [(); 3].map(|()| app.expect(&Account::BALANCE).cents);
/// assert_eq!(balances, [3, 5, 7]);
/// ```
///
/// The type is `Serialize` and `Deserialize`. A message finds the entity of its key with the state
/// that the message before it has left; state, outputs and reminders commit together. A handler
/// that fails or panics changes nothing.
///
/// # Arguments
///
/// | argument | meaning | default |
/// | --- | --- | --- |
/// | `key = "account"` | field of the messages that is the key of their entity | required |
/// | `name`, `summary`, `config`, `example`, `failures` | as for [`service`](macro@service) | |
/// | `idle = "1m"` | time without a message after which an entity leaves memory | 1 minute |
/// | `active_max = 10_000` | maximum entities in memory; above it those leave that were used least recently | 10,000 |
///
/// # Methods
///
/// | method | called |
/// | --- | --- |
/// | `#[input]` | for each message of the input, as for [`service`](macro@service), without batches |
/// | `#[reminder]` | for reminders that the entity has set for itself; an input that is not connected in the manifest |
/// | `start(Key, &Config, &Context)` | for the first message of a key; each parameter may be left out. Without it the type needs `Default` |
/// | `check(&Config)` | as in the trait `Entity` |
///
/// There are no ticks and no `stop`: an entity that is idle is not in memory. A handler reminds
/// its entity with `cx.remind(&Self::NAME, message, after)`, where `NAME` is a `#[reminder]` or an
/// `#[input]`; the message has the key of the entity.
///
/// # Parameters
///
/// As for [`service`](macro@service), and `config: &Config`. There is no `&mut Tx`: the state is
/// saved in the transaction of the message.
#[proc_macro_attribute]
pub fn entity(arguments: TokenStream, item: TokenStream) -> TokenStream {
    finish(entity::entity(arguments.into(), item.into()))
}

/// Makes an `async` function a source: a service type that brings messages in.
///
/// The function loops; when the source is to stop, it is dropped where it waits. A function that
/// returns `Ok` has ended, and one that fails runs again after the restart back-off.
///
/// ```
/// use std::time::Duration;
/// use brickwork::prelude::*;
/// use brickwork::tokio::time::sleep;
///
/// #[message]
/// struct Beat { number: u64 }
///
/// /// Sends a number every second.
/// #[source]
/// async fn clock(beats: Feed<Beat>, mut position: Position<u64>) -> Result {
///     for number in position.get().unwrap_or(0).. {
///         beats.send(Beat { number }).await?;
///         position.save(number + 1).await?;
///         sleep(Duration::from_secs(1)).await;
///     }
///     Ok(())
/// }
///
/// let catalog = Catalog::new().with_source::<clock>();
/// ```
///
/// | argument | meaning | default |
/// | --- | --- | --- |
/// | `name`, `summary`, `example`, `failures` | as for [`service`](macro@service) | |
/// | `ends = true` | the source ends by itself, as a file does | `false` |
/// | `single = false` | runs in every process of an app | `true` |
/// | `in_flight = 64` | maximum number of messages sent and not yet confirmed | 256 |
///
/// The last three may use `config`.
///
/// | parameter | meaning |
/// | --- | --- |
/// | `lines: Feed<Line>` | the output `lines` |
/// | `position: Position<P>` | the place that the source has reached, any serde type |
/// | `config: &Config` | the config |
/// | `cx: &SourceContext` | everything else |
#[proc_macro_attribute]
pub fn source(arguments: TokenStream, item: TokenStream) -> TokenStream {
    finish(source::source(arguments.into(), item.into()))
}

fn finish(expanded: syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    expanded
        .unwrap_or_else(|error| error.into_compile_error())
        .into()
}

#[cfg(test)]
mod tests {
    use quote::ToTokens;
    use syn::{Attribute, Item, Meta};

    use super::*;

    /// Returns the attributes of an item.
    fn attributes(item: &mut Item) -> Option<&mut Vec<Attribute>> {
        match item {
            Item::Const(item) => Some(&mut item.attrs),
            Item::Enum(item) => Some(&mut item.attrs),
            Item::Fn(item) => Some(&mut item.attrs),
            Item::Impl(item) => Some(&mut item.attrs),
            Item::Struct(item) => Some(&mut item.attrs),
            _ => None,
        }
    }

    /// Expands an item by its first attribute; `None` if the attribute is another one.
    fn expand(mut item: Item) -> Option<syn::Result<proc_macro2::TokenStream>> {
        let attributes = attributes(&mut item)?;
        let ours = ["message", "config", "service", "source", "entity"];
        let is_ours = |it: &Attribute| ours.iter().any(|name| it.path().is_ident(name));
        let index = attributes.iter().position(is_ours)?;
        let attribute = attributes.remove(index);
        let arguments = match &attribute.meta {
            Meta::List(list) => list.tokens.clone(),
            _ => Default::default(),
        };
        let item = item.into_token_stream();
        Some(match attribute.path().get_ident()?.to_string().as_str() {
            "message" => data::message(arguments, item),
            "config" => data::config(arguments, item),
            "source" => source::source(arguments, item),
            "entity" => entity::entity(arguments, item),
            _ => service::service(arguments, item),
        })
    }

    /// The compiler shows these texts at the user's tokens: see `tests/errors.rs`.
    #[test]
    fn a_mistake_is_an_error_that_says_what_to_write() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/errors");
        let mut cases = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let file = syn::parse_file(&std::fs::read_to_string(&path).unwrap()).unwrap();
            let expanded = file.items.into_iter().filter_map(expand);
            let errors = expanded.map(|it| format!("error: {}", it.expect_err("a mistake")));
            let expected = std::fs::read_to_string(path.with_extension("stderr")).unwrap();
            let expected: Vec<&str> = expected
                .lines()
                .filter(|line| line.starts_with("error: "))
                .collect();
            // The folder in this text has another path.
            let shorten = |text: &str| match text.starts_with("error: can't read ") {
                true => "error: can't read".to_owned(),
                false => text.to_owned(),
            };
            let texts: Vec<String> = errors.map(|text| shorten(&text)).collect();
            let expected: Vec<String> = expected.into_iter().map(shorten).collect();
            assert_eq!(texts, expected, "{}", path.display());
            cases += texts.len();
        }
        assert!(cases >= 40, "{cases} cases");
    }
}
