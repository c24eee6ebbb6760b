//! `#[entity]`: an `impl` block as an entity type.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{
    Error, FnArg, ImplItem, ImplItemFn, Item, ItemImpl, PatType, Result, Signature, Type, parse2,
};

use crate::attributes::EntityArguments;
use crate::block::{check_block, forgotten, handler, name_of, summary};
use crate::handler::{Event, Handler, ports};
use crate::inputs::{check_first, check_names};
use crate::parameters::{Parameter, parameters};

pub(crate) fn entity(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let arguments = EntityArguments::parse(arguments)?;
    match parse2::<Item>(item)? {
        Item::Impl(block) => expand(&arguments, block),
        Item::Struct(item) => Err(Error::new_spanned(
            item.ident,
            "`#[entity]` belongs on the `impl` block with the handlers",
        )),
        other => Err(Error::new_spanned(
            other,
            "`#[entity]` belongs on an `impl` block: an entity has a state",
        )),
    }
}

fn expand(arguments: &EntityArguments, mut block: ItemImpl) -> Result<TokenStream> {
    check_block(&block, "entity")?;
    let entity = (*block.self_ty).clone();
    let name = name_of(&arguments.description, &entity, "entity")?;
    let Some(key) = &arguments.key else {
        return Err(Error::new_spanned(
            &entity,
            "an entity belongs to a key: write the field of its messages, such as \
             `#[entity(key = \"customer\")]`",
        ));
    };
    let mut handlers = Vec::new();
    let mut hooks = Hooks::default();
    for item in &mut block.items {
        if let ImplItem::Fn(method) = item {
            match handler(method, true)? {
                Some(handler) => handlers.push(checked(handler)?),
                None => hooks.look_at(method)?,
            }
        }
    }
    if handlers.is_empty() {
        return Err(Error::new_spanned(
            &entity,
            "the entity has no handler: mark a method with `#[input]`",
        ));
    }
    check_names(&block, &handlers)?;
    check_first(&handlers)?;
    let config = arguments.config.clone().or(hooks.config);
    let config = match config.or_else(|| config_of(&handlers)) {
        Some(config) => quote!(#config),
        None => quote!(::brickwork::NoConfig),
    };
    let start = hooks.start.unwrap_or_else(|| {
        // The error of a type without `Default` points at the type.
        let span = entity.span();
        quote_spanned! {span=>
            let _ = (key, config, cx);
            Ok(<#entity as ::core::default::Default>::default())
        }
    });
    let summary = summary(&arguments.description, &block.attrs);
    let described = arguments.description.constants();
    let idle = arguments.idle.iter();
    let active_max = arguments.active_max.iter();
    let check = hooks.check;
    let (outputs, constants) = ports(&handlers)?;
    let inputs = handlers.iter().map(Handler::constant);
    let declarations = handlers.iter().map(Handler::declaration);
    let implementations = handlers.iter().map(|it| it.implementation(&entity));
    Ok(quote! {
        #block

        /// The ports, for tests and callers.
        #[allow(dead_code, private_interfaces, missing_docs)]
        impl #entity {
            #(#inputs)*
            #constants
        }

        const _: () = {
            impl ::brickwork::Entity for #entity {
                const NAME: &'static str = #name;
                const SUMMARY: &'static str = #summary;
                const KEY: &'static str = #key;
                #described
                #(const IDLE: ::core::time::Duration = #idle;)*
                #(const ACTIVE_MAX: usize = #active_max;)*
                type Config = #config;

                fn ports(config: &Self::Config, ports: &mut ::brickwork::Ports<Self>) {
                    let _ = config;
                    #(#declarations)*
                    #outputs
                }

                async fn start(
                    key: &::brickwork::Key,
                    config: &Self::Config,
                    cx: &mut ::brickwork::Context,
                ) -> ::core::result::Result<Self, ::brickwork::Failure> {
                    #start
                }

                #check
            }

            #(#implementations)*
        };
    })
}

/// # Errors
/// The handler is one that an entity can't have.
fn checked(handler: Handler) -> Result<Handler> {
    let mut parameters = handler.parameters.iter();
    if let Some(shared) = parameters.find(|it| matches!(it, Parameter::Shared(..))) {
        return Err(Error::new_spanned(
            shared.tokens(),
            "an entity has no shared value: take it from `cx.shared(…)`",
        ));
    }
    match &handler.event {
        Event::Tick { .. } => Err(Error::new_spanned(
            &handler.signature.ident,
            "an entity has no ticks, because it may not be in memory: remind it with \
             `cx.remind(&Self::NAME, message, after)`",
        )),
        Event::Input { batch: Some(_), .. } => Err(Error::new_spanned(
            &handler.signature.ident,
            "an entity handles one message at a time: take `batch` away",
        )),
        Event::Input { .. } => match handler.tx() {
            Some(tx) => Err(Error::new_spanned(
                tx,
                "an entity is saved in the transaction of its message: take `&mut Tx` away, and \
                 keep the data in `self`",
            )),
            None => Ok(handler),
        },
    }
}

/// Returns the type of the config that a handler takes.
fn config_of(handlers: &[Handler]) -> Option<Type> {
    let mut parameters = handlers.iter().flat_map(|handler| &handler.parameters);
    parameters.find_map(|parameter| match parameter {
        Parameter::Config(ty) => Some(ty.clone()),
        _ => None,
    })
}

/// The methods with a meaning of their own: `start` and `check`.
#[derive(Default)]
struct Hooks {
    config: Option<Type>,
    start: Option<TokenStream>,
    check: TokenStream,
}

impl Hooks {
    fn look_at(&mut self, method: &ImplItemFn) -> Result<()> {
        let signature = &method.sig;
        match signature.ident.to_string().as_str() {
            "start" => self.start(signature)?,
            "stop" if signature.receiver().is_some() => {
                return Err(Error::new_spanned(
                    &signature.ident,
                    "an entity has no `stop`: it leaves memory while it is idle, and its state is \
                     saved already; give the method another name",
                ));
            }
            "check" => {
                self.check = quote! {
                    fn check(
                        config: &Self::Config,
                    ) -> ::core::result::Result<(), ::std::vec::Vec<::brickwork::ConfigError>> {
                        Self::check(config)
                    }
                };
            }
            _ => forgotten(method)?,
        }
        Ok(())
    }

    fn start(&mut self, signature: &Signature) -> Result<()> {
        let (signature, takes_reference) = with_owned_key(signature);
        let wait = signature.asyncness.map(|_| quote!(.await));
        let mut arguments = Vec::new();
        for parameter in parameters(&signature)? {
            arguments.push(match parameter {
                Parameter::Config(ty) => {
                    self.config = Some(ty);
                    quote!(config)
                }
                Parameter::Key(_) if takes_reference => quote!(key),
                Parameter::Key(_) => quote!(::core::clone::Clone::clone(key)),
                Parameter::Context | Parameter::ContextMut(_) => quote!(cx),
                _ => {
                    return Err(Error::new_spanned(
                        &signature.inputs,
                        "`start` takes the key as `Key`, the config as `&Config`, and `&Context`",
                    ));
                }
            });
        }
        self.start = Some(quote! {
            let _ = (key, config, &cx);
            ::brickwork::__macros::HandlerReturn::into_result(Self::start(#(#arguments),*)#wait)
        });
        Ok(())
    }
}

/// Returns the signature with `Key` for `&Key`, and whether there was one.
fn with_owned_key(signature: &Signature) -> (Signature, bool) {
    let mut signature = signature.clone();
    let mut found = false;
    for argument in &mut signature.inputs {
        if let FnArg::Typed(PatType { ty, .. }) = argument
            && let Type::Reference(reference) = &**ty
            && let Type::Path(path) = &*reference.elem
            && path
                .path
                .segments
                .last()
                .is_some_and(|it| it.ident == "Key")
        {
            *ty = reference.elem.clone();
            found = true;
        }
    }
    (signature, found)
}
