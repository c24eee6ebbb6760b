//! `#[source]` on a function: a service type that brings messages in.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Error, ItemFn, Result, ReturnType, Type, parse2};

use crate::attributes::SourceArguments;
use crate::block::{documentation, summary};
use crate::names::type_name;
use crate::parameters::{Parameter, parameters, write_lifetimes};

pub(crate) fn source(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let arguments = SourceArguments::parse(arguments)?;
    let mut item: ItemFn = parse2(item.clone())
        .map_err(|_| Error::new_spanned(&item, "`#[source]` belongs on an `async` function"))?;
    let signature = item.sig.clone();
    let ident = &signature.ident;
    if let Some(receiver) = signature.receiver() {
        return Err(Error::new_spanned(
            receiver,
            "a source is a function without `self`",
        ));
    }
    if signature.asyncness.is_none() {
        return Err(Error::new_spanned(
            signature.fn_token,
            "a source is `async`: it waits while its messages are not accepted",
        ));
    }
    if let ReturnType::Default = signature.output {
        return Err(Error::new_spanned(
            ident,
            "a source can fail: write `-> Result`",
        ));
    }
    let mut config = None;
    let (mut arguments_of_call, mut ports, mut constants) =
        (Vec::new(), TokenStream::new(), TokenStream::new());
    for parameter in parameters(&signature)? {
        arguments_of_call.push(match parameter {
            Parameter::Feed(port) => {
                let output = port.output();
                ports.extend(quote!(ports.output(&#output);));
                constants.extend(port.constant());
                quote!(::brickwork::Feed::of(cx, #output))
            }
            Parameter::Position(_) => quote!(::brickwork::Position::of(cx)?),
            Parameter::SourceContext => quote!(cx),
            Parameter::Config(ty) => {
                config = Some(ty);
                quote!(config)
            }
            other => {
                return Err(Error::new_spanned(
                    other.tokens(),
                    "the parameters of a source are `Feed<T>`, `Position<P>`, `&SourceContext` \
                     and the config as `&Config`",
                ));
            }
        });
    }
    if constants.is_empty() {
        return Err(Error::new_spanned(
            ident,
            "a source has an output: add a parameter such as `lines: Feed<Line>`",
        ));
    }
    write_lifetimes(&mut item.sig);
    let config: Type = config.unwrap_or_else(|| syn::parse_quote!(::brickwork::NoConfig));
    let service = &arguments.description;
    let name = service.name.clone().unwrap_or_else(|| type_name(ident));
    let summary = summary(service, &item.attrs);
    let consts = service.constants();
    let single = arguments.single.as_ref();
    let single = single.map(|it| quote!(const SINGLE: bool = #it;));
    let ends = arguments.ends.as_ref().map(|ends| {
        quote! {
            fn ends(config: &Self::Config) -> bool {
                let _ = config;
                #ends
            }
        }
    });
    let in_flight = arguments.in_flight.as_ref().map(|in_flight| {
        quote! {
            fn in_flight(config: &Self::Config) -> usize {
                let _ = config;
                #in_flight
            }
        }
    });
    let (documentation, visibility) = (documentation(&item.attrs), &item.vis);
    Ok(quote! {
        #item

        #documentation
        #[allow(non_camel_case_types)]
        #visibility struct #ident {}

        /// The outputs, for tests.
        #[allow(dead_code, private_interfaces, missing_docs)]
        impl #ident {
            #constants
        }

        const _: () = {
            impl ::brickwork::Source for #ident {
                const NAME: &'static str = #name;
                const SUMMARY: &'static str = #summary;
                #consts
                #single
                type Config = #config;

                fn ports(config: &Self::Config, ports: &mut ::brickwork::SourcePorts) {
                    let _ = config;
                    #ports
                }

                #ends
                #in_flight

                async fn run(
                    config: &Self::Config,
                    cx: &mut ::brickwork::SourceContext,
                ) -> ::core::result::Result<(), ::brickwork::Failure> {
                    let _ = config;
                    let cx: &::brickwork::SourceContext = cx;
                    let running = #ident(#(#arguments_of_call),*);
                    let ended = cx.or_stop(running).await?;
                    ::brickwork::__macros::HandlerReturn::into_result(ended)
                }
            }
        };
    })
}
