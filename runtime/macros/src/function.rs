//! `#[service]` on a function: a service type with one input, `in`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Error, ItemFn, Result, Type};

use crate::attributes::{InputArguments, ServiceArguments};
use crate::block::{documentation, summary};
use crate::handler::Handler;
use crate::names::type_name;
use crate::parameters::{Parameter, write_lifetimes};
use crate::service::Parts;

pub(crate) fn expand(arguments: &ServiceArguments, mut item: ItemFn) -> Result<TokenStream> {
    let (signature, ident, visibility) = (item.sig.clone(), item.sig.ident.clone(), &item.vis);
    if let Some(receiver) = signature.receiver() {
        return Err(Error::new_spanned(
            receiver,
            "methods are handlers of an `impl` block: put `#[service]` on the block",
        ));
    }
    let input = InputArguments::default();
    let handler = Handler::input(&signature, input, Some("in".to_owned()), quote!(#ident))?;
    let mut configs = handler
        .parameters
        .iter()
        .filter_map(|parameter| match parameter {
            Parameter::Config(ty) => Some(ty),
            _ => None,
        });
    let config = configs.next().cloned();
    if let Some(second) = configs.next() {
        return Err(Error::new_spanned(
            second,
            "a service has one config; the message is taken by value",
        ));
    }
    let shared = handler
        .parameters
        .iter()
        .find(|parameter| matches!(parameter, Parameter::Shared(..)));
    if let Some(shared) = shared {
        return Err(Error::new_spanned(
            shared.tokens(),
            "a function has no shared value: write an `impl` block with `share`",
        ));
    }
    let (fields, start) = match &config {
        Some(config) => (
            quote!({ config: #config }),
            quote!(Ok(Self {
                config: ::core::clone::Clone::clone(config)
            })),
        ),
        None => (quote!({}), quote!(Ok(Self {}))),
    };
    let service: Type = syn::parse_quote!(#ident);
    let name = arguments
        .description
        .name
        .clone()
        .unwrap_or_else(|| type_name(&ident));
    write_lifetimes(&mut item.sig);
    let parts = Parts {
        service: &service,
        name,
        summary: summary(&arguments.description, &item.attrs),
        config: arguments.config.clone().or(config),
        arguments,
        start: quote! {
            let _ = cx;
            #start
        },
        handlers: &[handler],
        others: TokenStream::new(),
    };
    let implementation = parts.expand()?;
    let documentation = documentation(&item.attrs);
    Ok(quote! {
        #item

        #documentation
        #[allow(non_camel_case_types)]
        #visibility struct #ident #fields

        #implementation
    })
}
