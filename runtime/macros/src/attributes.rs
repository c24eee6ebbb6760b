//! The arguments of the attributes.

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::{Parse, ParseStream, Parser};
use syn::{Attribute, Error, Expr, ExprLit, Ident, Lit, LitInt, LitStr, Result, Token, Type};

use crate::names::checked;

/// # Errors
/// There are arguments.
pub(crate) fn no_arguments(arguments: &TokenStream, attribute: &str) -> Result<()> {
    match arguments.is_empty() {
        true => Ok(()),
        false => Err(Error::new_spanned(
            arguments,
            format!("`#[{attribute}]` takes no arguments"),
        )),
    }
}

/// The arguments that describe a service type.
#[derive(Default)]
pub(crate) struct Description {
    pub(crate) name: Option<String>,
    pub(crate) summary: Option<LitStr>,
    example: Option<Expr>,
    failures: Option<Expr>,
}

impl Description {
    /// Takes an argument; returns `false` if it is none of these.
    fn take(&mut self, key: &Ident, input: ParseStream<'_>) -> Result<bool> {
        match key.to_string().as_str() {
            "name" => self.name = Some(checked(&input.parse()?)?),
            "summary" => self.summary = Some(input.parse()?),
            "example" => self.example = Some(input.parse()?),
            "failures" => self.failures = Some(input.parse()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Returns the constants `EXAMPLE` and `FAILURES`.
    pub(crate) fn constants(&self) -> TokenStream {
        let example = self.example.iter();
        let failures = self.failures.iter();
        quote! {
            #(const EXAMPLE: &'static str = #example;)*
            #(const FAILURES: &'static [&'static str] = &#failures;)*
        }
    }
}

/// The arguments of `#[service(…)]`.
#[derive(Default)]
pub(crate) struct ServiceArguments {
    pub(crate) description: Description,
    pub(crate) config: Option<Type>,
    /// A constant with migrations, or a folder of numbered SQL files.
    pub(crate) store: Option<Expr>,
    /// The field of the messages that is their key.
    pub(crate) key: Option<LitStr>,
}

impl ServiceArguments {
    pub(crate) fn parse(arguments: TokenStream) -> Result<Self> {
        let mut all = Self::default();
        let take = |key: &Ident, input: ParseStream<'_>| {
            match key.to_string().as_str() {
                "config" => all.config = Some(input.parse()?),
                "store" => all.store = Some(input.parse()?),
                "key" => all.key = Some(field(input.parse()?)?),
                _ => return all.description.take(key, input),
            }
            Ok(true)
        };
        let known = "name, summary, config, store, key, example and failures";
        parse_arguments(arguments, "service", known, take)?;
        Ok(all)
    }
}

/// The arguments of `#[entity(…)]`.
#[derive(Default)]
pub(crate) struct EntityArguments {
    pub(crate) description: Description,
    pub(crate) config: Option<Type>,
    /// The field of the messages that is their key.
    pub(crate) key: Option<LitStr>,
    /// Time after which an entity leaves memory.
    pub(crate) idle: Option<TokenStream>,
    /// Maximum entities in memory.
    pub(crate) active_max: Option<Expr>,
}

impl EntityArguments {
    pub(crate) fn parse(arguments: TokenStream) -> Result<Self> {
        let mut all = Self::default();
        let take = |key: &Ident, input: ParseStream<'_>| {
            match key.to_string().as_str() {
                "config" => all.config = Some(input.parse()?),
                "key" => all.key = Some(field(input.parse()?)?),
                "idle" => all.idle = Some(duration(&input.parse()?)?),
                "active_max" => all.active_max = Some(input.parse()?),
                _ => return all.description.take(key, input),
            }
            Ok(true)
        };
        let known = "name, summary, config, key, idle, active_max, example and failures";
        parse_arguments(arguments, "entity", known, take)?;
        Ok(all)
    }
}

/// # Errors
/// The text is no name of a field.
fn field(name: LitStr) -> Result<LitStr> {
    match name.value() {
        text if text.is_empty() || text.contains(['.', ' ']) => Err(Error::new(
            name.span(),
            "the key is a field of the messages, such as \"customer\"; an expression belongs \
             into the manifest: `services.S.key = \"msg.order.customer\"`",
        )),
        _ => Ok(name),
    }
}

/// The arguments of `#[source(…)]`.
#[derive(Default)]
pub(crate) struct SourceArguments {
    pub(crate) description: Description,
    pub(crate) single: Option<Expr>,
    pub(crate) ends: Option<Expr>,
    pub(crate) in_flight: Option<Expr>,
}

impl SourceArguments {
    pub(crate) fn parse(arguments: TokenStream) -> Result<Self> {
        let mut all = Self::default();
        let take = |key: &Ident, input: ParseStream<'_>| {
            match key.to_string().as_str() {
                "single" => all.single = Some(input.parse()?),
                "ends" => all.ends = Some(input.parse()?),
                "in_flight" => all.in_flight = Some(input.parse()?),
                _ => return all.description.take(key, input),
            }
            Ok(true)
        };
        let known = "name, summary, single, ends, in_flight, example and failures";
        parse_arguments(arguments, "source", known, take)?;
        Ok(all)
    }
}

/// Parses `key = value, …`. `take` takes a value, or returns `false` for an unknown key.
fn parse_arguments(
    arguments: TokenStream,
    attribute: &str,
    known: &str,
    mut take: impl FnMut(&Ident, ParseStream<'_>) -> Result<bool>,
) -> Result<()> {
    let parser = |input: ParseStream<'_>| {
        while !input.is_empty() {
            let key: Ident = input.parse()?;
            input
                .parse::<Token![=]>()
                .map_err(|error| Error::new(error.span(), format!("write a value: `{key} = …`")))?;
            if !take(&key, input)? {
                let text = format!("`#[{attribute}]` has no argument `{key}`: there are {known}");
                return Err(Error::new(key.span(), text));
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(())
    };
    parser.parse2(arguments)
}

/// The arguments of `#[input(…)]`.
#[derive(Default)]
pub(crate) struct InputArguments {
    pub(crate) name: Option<String>,
    /// Maximum messages of a batch.
    pub(crate) batch: Option<LitInt>,
    /// Maximum wait for a batch.
    pub(crate) within: Option<LitStr>,
    /// `first`: its messages go before those of other inputs.
    pub(crate) first: Option<Ident>,
}

impl InputArguments {
    pub(crate) fn parse(attribute: &Attribute) -> Result<Self> {
        let mut all = Self::default();
        if matches!(attribute.meta, syn::Meta::Path(_)) {
            return Ok(all);
        }
        attribute.parse_args_with(|input: ParseStream<'_>| {
            while !input.is_empty() {
                all.add(input)?;
                if !input.is_empty() {
                    input.parse::<Token![,]>()?;
                }
            }
            Ok(())
        })?;
        if let (Some(within), None) = (&all.within, &all.batch) {
            return Err(Error::new(
                within.span(),
                "`within` is the wait for a batch: add `batch = 100`",
            ));
        }
        Ok(all)
    }

    fn add(&mut self, input: ParseStream<'_>) -> Result<()> {
        if input.peek(LitStr) {
            self.name = Some(checked(&input.parse()?)?);
            return Ok(());
        }
        let key: Ident = input.parse().map_err(|error| {
            Error::new(error.span(), "write `#[input]`, `#[input(\"name\")]` or `#[input(batch = 100, within = \"1s\")]`")
        })?;
        if key == "first" {
            self.first = Some(key);
            return Ok(());
        }
        input.parse::<Token![=]>()?;
        match key.to_string().as_str() {
            "batch" => self.batch = Some(input.parse()?),
            "within" => self.within = Some(input.parse()?),
            other => {
                let text = format!(
                    "`#[input]` has no argument `{other}`: there are a name, batch, within and first"
                );
                return Err(Error::new(key.span(), text));
            }
        }
        Ok(())
    }
}

/// The interval of `#[tick(…)]`: a duration as text, or an expression over `config`.
pub(crate) struct Interval(pub(crate) TokenStream);

impl Interval {
    pub(crate) fn parse(attribute: &Attribute) -> Result<Self> {
        if matches!(attribute.meta, syn::Meta::Path(_)) {
            return Err(Error::new_spanned(
                attribute,
                "write the interval: `#[tick(\"10s\")]` or `#[tick(config.interval)]`",
            ));
        }
        attribute.parse_args()
    }
}

impl Parse for Interval {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        match input.parse::<Expr>()? {
            Expr::Lit(ExprLit {
                lit: Lit::Str(text),
                ..
            }) => Ok(Self(duration(&text)?)),
            expression => Ok(Self(quote!(::core::time::Duration::from(#expression)))),
        }
    }
}

/// Returns the duration that a text such as `"10s"` means.
///
/// # Errors
/// The text has no unit of ms, s, m or h, or no number.
pub(crate) fn duration(text: &LitStr) -> Result<TokenStream> {
    let value = text.value();
    let digits = value.find(|char: char| !char.is_ascii_digit());
    let (number, unit) = value.split_at(digits.unwrap_or(value.len()));
    let factor = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let number: Option<u64> = number.parse().ok();
    let ms = number
        .zip(factor)
        .and_then(|(number, factor): (u64, u64)| number.checked_mul(factor))
        .filter(|ms| *ms > 0);
    match ms {
        Some(ms) => Ok(quote!(::core::time::Duration::from_millis(#ms))),
        None => Err(Error::new(
            text.span(),
            format!("{value:?} is no duration: write a number with ms, s, m or h, such as \"10s\""),
        )),
    }
}
