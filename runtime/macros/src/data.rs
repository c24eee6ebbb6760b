//! `#[message]` and `#[config]`: the derives of payloads and configs.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{Attribute, Data, DeriveInput, Error, Expr, Fields, Result, parse2};

use crate::attributes::no_arguments;

pub(crate) fn message(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    no_arguments(&arguments, "message")?;
    let item: DeriveInput = parse_item(item, "#[message]")?;
    if let Some(parameter) = item.generics.type_params().next() {
        return Err(Error::new_spanned(
            parameter,
            "a message has no type parameters: its name and schema must be one",
        ));
    }
    if let Some(lifetime) = item.generics.lifetimes().next() {
        return Err(Error::new_spanned(
            lifetime,
            "a message owns its data: use `String` for `&str` and `Vec<T>` for `&[T]`",
        ));
    }
    let derives = derives(&item, true);
    Ok(quote!(#derives #item))
}

pub(crate) fn config(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    no_arguments(&arguments, "config")?;
    let mut item: DeriveInput = parse_item(item, "#[config]")?;
    if let Some(parameter) = item.generics.params.first() {
        return Err(Error::new_spanned(
            parameter,
            "a config has no type parameters and no lifetimes",
        ));
    }
    let derives = derives(&item, false);
    let (serde, default) = match &mut item.data {
        Data::Struct(data) => {
            let default = default_of(&item.ident, &item.attrs, &mut data.fields)?;
            (quote!(#[serde(deny_unknown_fields, default)]), default)
        }
        // A setting with several forms.
        _ => (quote!(#[serde(deny_unknown_fields)]), TokenStream::new()),
    };
    Ok(quote!(#derives #serde #item #default))
}

fn parse_item(item: TokenStream, attribute: &str) -> Result<DeriveInput> {
    parse2(item.clone()).map_err(|_| {
        Error::new_spanned(item, format!("{attribute} belongs on a struct or an enum"))
    })
}

/// Returns the derives that the item doesn't have yet.
fn derives(item: &DeriveInput, is_message: bool) -> TokenStream {
    let present = derived(&item.attrs);
    let has = |name: &str| present.iter().any(|it| it == name);
    let mut wanted = Vec::new();
    for (name, path) in [
        ("Debug", quote!(::core::fmt::Debug)),
        ("Clone", quote!(::core::clone::Clone)),
        ("Serialize", quote!(::brickwork::__macros::serde::Serialize)),
        (
            "Deserialize",
            quote!(::brickwork::__macros::serde::Deserialize),
        ),
        (
            "JsonSchema",
            quote!(::brickwork::__macros::schemars::JsonSchema),
        ),
    ] {
        if !has(name) && (is_message || name != "Serialize") {
            wanted.push(path);
        }
    }
    quote! {
        #[derive(#(#wanted),*)]
        #[serde(crate = "::brickwork::__macros::serde")]
        #[schemars(crate = "::brickwork::__macros::schemars")]
    }
}

/// Returns the names in the `derive` attributes.
fn derived(attrs: &[Attribute]) -> Vec<String> {
    let mut names = Vec::new();
    for attr in attrs.iter().filter(|attr| attr.path().is_ident("derive")) {
        // A list that can't be parsed is the compiler's to report.
        let _unparsed = attr.parse_nested_meta(|meta| {
            names.extend(meta.path.segments.last().map(|it| it.ident.to_string()));
            Ok(())
        });
    }
    names
}

/// Returns an `impl Default` from the `#[default(…)]` attributes of the fields, which it takes
/// away. Without any, the user's own `Default` is used if there is one, and one is derived if
/// the derives don't name it.
fn default_of(name: &syn::Ident, attrs: &[Attribute], fields: &mut Fields) -> Result<TokenStream> {
    let mut values = Vec::new();
    let mut given = None;
    for field in fields.iter_mut() {
        let mut value = quote!(::core::default::Default::default());
        if let Some(index) = field
            .attrs
            .iter()
            .position(|attr| attr.path().is_ident("default"))
        {
            let attr = field.attrs.remove(index);
            let expression: Expr = attr
                .parse_args()
                .map_err(|_| Error::new_spanned(&attr, "write the value: `#[default(10)]`"))?;
            value = expression.into_token_stream();
            given = Some(attr);
        }
        let member = field.ident.as_ref();
        values.push(match member {
            Some(member) => quote!(#member: #value),
            None => value,
        });
    }
    let derives_default = derived(attrs).iter().any(|it| it == "Default");
    match given {
        Some(attr) if derives_default => Err(Error::new_spanned(
            attr,
            "the struct derives `Default`: take that away, `#[config]` writes it",
        )),
        None if derives_default => Ok(TokenStream::new()),
        _ => {
            let body = match fields {
                Fields::Named(_) => quote!(Self { #(#values),* }),
                Fields::Unnamed(_) => quote!(Self(#(#values),*)),
                Fields::Unit => quote!(Self),
            };
            Ok(quote! {
                impl ::core::default::Default for #name {
                    fn default() -> Self {
                        #body
                    }
                }
            })
        }
    }
}
