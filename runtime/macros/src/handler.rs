//! One handler: a method or function with `#[input]` or `#[tick]`, as code over the traits.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, LitInt, LitStr, Result, ReturnType, Signature, Type};

use crate::attributes::{InputArguments, Interval, duration};
use crate::names::port_name;
use crate::parameters::{FORMS, Parameter, Port, constant_name, parameters};
use crate::share::check_once;

/// Default wait for a batch.
const BATCH_WITHIN_MS: u64 = 100;

/// The event that a handler is called for.
pub(crate) enum Event {
    Input {
        name: String,
        batch: Option<TokenStream>,
        /// `first`, if its messages go before those of other inputs.
        first: Option<Ident>,
    },
    Tick {
        name: String,
        interval: TokenStream,
    },
}

pub(crate) struct Handler {
    pub(crate) event: Event,
    pub(crate) parameters: Vec<Parameter>,
    /// Tells inputs with messages of one type apart.
    marker: Ident,
    /// The function with its path: `self.orders`, `Self::orders` or `orders`.
    function: TokenStream,
    /// The type that the function returns.
    returns: TokenStream,
    is_async: bool,
    /// Whether it is for reminders of an entity alone.
    pub(crate) is_reminder: bool,
    /// Whether it belongs to an entity, whose context has the config.
    pub(crate) is_of_entity: bool,
    pub(crate) signature: Signature,
}

impl Handler {
    /// Returns the handler of an input.
    pub(crate) fn input(
        signature: &Signature,
        arguments: InputArguments,
        name: Option<String>,
        function: TokenStream,
    ) -> Result<Self> {
        let derived = name.unwrap_or_else(|| port_name(&signature.ident));
        let batch = arguments
            .batch
            .map(|max| batch(&max, arguments.within.as_ref()));
        let event = Event::Input {
            name: arguments.name.unwrap_or(derived),
            batch: batch.transpose()?,
            first: arguments.first,
        };
        let handler = Self::new(signature, event, function)?;
        let messages = handler.messages();
        match (messages.as_slice(), &handler.event) {
            ([_], Event::Input { batch: None, .. }) => Ok(handler),
            ([message], _) => match vec_of(message) {
                Some(_) => Ok(handler),
                None => Err(Error::new_spanned(
                    message,
                    "the messages of a batch are a `Vec<T>`",
                )),
            },
            ([], _) => Err(Error::new_spanned(
                &signature.ident,
                "an input takes a message: add a parameter with its type, by value",
            )),
            ([_, second, ..], _) => Err(Error::new_spanned(
                second,
                format!("a handler takes one message; other parameters are {FORMS}"),
            )),
        }
    }

    /// Returns the handler of a tick.
    pub(crate) fn tick(
        signature: &Signature,
        interval: Interval,
        function: TokenStream,
    ) -> Result<Self> {
        let name = port_name(&signature.ident);
        let Interval(interval) = interval;
        let handler = Self::new(signature, Event::Tick { name, interval }, function)?;
        for parameter in &handler.parameters {
            match parameter {
                Parameter::Message(ty) | Parameter::Meta(ty) | Parameter::Key(ty) => {
                    let text = "a tick has no message";
                    return Err(Error::new_spanned(ty, text));
                }
                _ => {}
            }
        }
        Ok(handler)
    }

    fn new(signature: &Signature, event: Event, function: TokenStream) -> Result<Self> {
        let handler = Self {
            event,
            parameters: parameters(signature)?,
            marker: format_ident!("Input_{}", signature.ident),
            function,
            returns: return_type(&signature.output),
            is_async: signature.asyncness.is_some(),
            is_reminder: false,
            is_of_entity: false,
            signature: signature.clone(),
        };
        for parameter in &handler.parameters {
            if let Parameter::Feed(_) | Parameter::Position(_) | Parameter::SourceContext =
                parameter
            {
                let text = "only a source sends: a handler emits with `Out<T>`";
                return Err(Error::new_spanned(parameter.tokens(), text));
            }
        }
        handler.check_key()?;
        check_once(&handler.parameters)?;
        handler.check_context()?;
        handler.check_tx()?;
        Ok(handler)
    }

    fn messages(&self) -> Vec<Type> {
        let parameters = self.parameters.iter();
        let messages = parameters.filter_map(|parameter| match parameter {
            Parameter::Message(ty) => Some(ty.clone()),
            _ => None,
        });
        messages.collect()
    }

    /// A batch has messages of many keys.
    fn check_key(&self) -> Result<()> {
        let Event::Input { batch: Some(_), .. } = &self.event else {
            return Ok(());
        };
        let mut parameters = self.parameters.iter();
        match parameters.find(|it| matches!(it, Parameter::Key(_))) {
            Some(parameter) => Err(Error::new_spanned(
                parameter.tokens(),
                "the messages of a batch have keys of their own: take `batch` away, or read the \
                 field of each message",
            )),
            None => Ok(()),
        }
    }

    /// `&mut Context` excludes everything else that uses the context.
    fn check_context(&self) -> Result<()> {
        let exclusive = self
            .parameters
            .iter()
            .find_map(|parameter| match parameter {
                Parameter::ContextMut(ty) => Some(ty),
                _ => None,
            });
        let shares = self.parameters.iter().any(|parameter| {
            matches!(
                parameter,
                Parameter::Out(_) | Parameter::Ask(..) | Parameter::Context | Parameter::Tx(_)
            )
        });
        match exclusive {
            Some(ty) if shares => Err(Error::new_spanned(
                ty,
                "write `&Context`, which goes with every other parameter",
            )),
            _ => Ok(()),
        }
    }

    /// A body in a transaction runs on the store's thread.
    fn check_tx(&self) -> Result<()> {
        let Some(tx) = self.tx() else {
            return Ok(());
        };
        if let Event::Input { batch: Some(_), .. } = &self.event {
            return Err(Error::new_spanned(
                tx,
                "a batch has a transaction for each message: use `cx.store()?.transact_each`",
            ));
        }
        if let Some(asyncness) = &self.signature.asyncness {
            return Err(Error::new_spanned(
                asyncness,
                "a handler with `&mut Tx` runs on the store's thread and can't wait: take `async` away",
            ));
        }
        if let Some(receiver) = self.signature.receiver() {
            return Err(Error::new_spanned(
                receiver,
                "a handler with `&mut Tx` runs on the store's thread, so it has no `self`: keep \
                 its data in the store",
            ));
        }
        for parameter in &self.parameters {
            if let Parameter::Ask(port, _) = parameter {
                return Err(Error::new_spanned(
                    &port.ident,
                    "a transaction can't wait for an answer: ask before it, with `cx.store()?.transact`",
                ));
            }
            if let Parameter::Context = parameter {
                return Err(Error::new_spanned(
                    tx,
                    "a handler with `&mut Tx` has no context: use `tx.message()`, `tx.emit()` or `Meta`",
                ));
            }
        }
        Ok(())
    }

    pub(crate) fn tx(&self) -> Option<&Type> {
        self.parameters
            .iter()
            .find_map(|parameter| match parameter {
                Parameter::Tx(ty) => Some(ty),
                _ => None,
            })
    }

    /// Returns the statements that declare its ports.
    pub(crate) fn declaration(&self) -> TokenStream {
        match &self.event {
            Event::Input { name, batch, first } => {
                let first = first.as_ref().map(|_| quote!(.first()));
                let marker = &self.marker;
                let constant = constant_name(name, &self.signature.ident);
                let message = self.messages().remove(0);
                match batch {
                    None if self.is_reminder => quote_spanned! {message.span()=>
                        ports.reminder_as::<#marker, _, _>(&Self::#constant)#first;
                    },
                    // An error in the type of the message points at it.
                    None => quote_spanned! {message.span()=>
                        ports.input_as::<#marker, _, _>(&Self::#constant)#first;
                    },
                    Some(batch) => quote_spanned! {message.span()=>
                        ports.batch_as::<#marker, _>(&Self::#constant, #batch)#first;
                    },
                }
            }
            Event::Tick { name, interval } => quote! {
                ports.tick(::brickwork::Tick::new(#name), #interval);
            },
        }
    }

    /// Returns the constant of its input; nothing for a tick.
    pub(crate) fn constant(&self) -> TokenStream {
        let Event::Input { name, batch, .. } = &self.event else {
            return TokenStream::new();
        };
        let ident = constant_name(name, &self.signature.ident);
        let message = self.messages().remove(0);
        let types = match batch {
            None => {
                let returns = &self.returns;
                quote!(#message, <#returns as ::brickwork::__macros::HandlerReturn>::Reply)
            }
            Some(_) => vec_of(&message).map(|it| quote!(#it)).unwrap_or_default(),
        };
        quote!(pub const #ident: ::brickwork::Input<#types> = ::brickwork::Input::new(#name);)
    }

    /// Returns the impl of the handler trait; nothing for a tick.
    pub(crate) fn implementation(&self, service: &Type) -> TokenStream {
        let Event::Input { batch, .. } = &self.event else {
            return TokenStream::new();
        };
        let (marker, returns, body) = (&self.marker, &self.returns, self.body());
        let message = self.messages().remove(0);
        if batch.is_some() {
            let message = vec_of(&message);
            return quote! {
                #[allow(non_camel_case_types)]
                struct #marker;

                impl ::brickwork::HandleBatch<#message, #marker> for #service {
                    async fn handle_batch(
                        &mut self,
                        message: ::std::vec::Vec<#message>,
                        cx: &mut ::brickwork::Context,
                    ) -> ::std::vec::Vec<::core::result::Result<(), ::brickwork::Failure>> {
                        ::brickwork::__macros::BatchReturn::into_results(#body)
                    }
                }
            };
        }
        quote! {
            #[allow(non_camel_case_types)]
            struct #marker;

            impl ::brickwork::Handle<
                #message,
                <#returns as ::brickwork::__macros::HandlerReturn>::Reply,
                #marker,
            > for #service {
                async fn handle(
                    &mut self,
                    message: #message,
                    cx: &mut ::brickwork::Context,
                ) -> ::core::result::Result<
                    <#returns as ::brickwork::__macros::HandlerReturn>::Reply,
                    ::brickwork::Failure,
                > {
                    #body
                }
            }
        }
    }

    /// Returns the arm of `Service::tick`; nothing for an input.
    pub(crate) fn tick_arm(&self) -> TokenStream {
        let Event::Tick { name, .. } = &self.event else {
            return TokenStream::new();
        };
        let body = self.body();
        quote!(#name => { #body })
    }

    /// Returns the block that calls the function, with `message` and `cx` in scope.
    fn body(&self) -> TokenStream {
        let function = &self.function;
        let has = |wanted: fn(&Parameter) -> bool| self.parameters.iter().any(wanted);
        let meta = has(|it| matches!(it, Parameter::Meta(_)))
            .then(|| quote!(let meta = ::brickwork::Meta::of(cx);));
        let key = has(|it| matches!(it, Parameter::Key(_)))
            .then(|| quote!(let key = ::brickwork::__macros::key_of(cx)?;));
        let shared = has(|it| matches!(it, Parameter::Shared(..)))
            .then(|| quote!(let shared = ::brickwork::Shared::of(cx);));
        let has_config = has(|it| matches!(it, Parameter::Config(_)));
        let arguments = self.parameters.iter().map(argument);
        if self.tx().is_some() {
            let config = has_config.then(|| quote!(let config = self.config.clone();));
            return quote! {
                #meta
                #key
                #shared
                #config
                let work = move |tx: &mut ::brickwork::Tx<'_>| {
                    let outs = tx.outs();
                    let result = #function(#(#arguments),*);
                    let reply = ::brickwork::__macros::HandlerReturn::into_result(result)?;
                    tx.keep_reply(reply)
                };
                cx.store()?.transact(work).await
            };
        }
        let config = has_config.then(|| match self.is_of_entity {
            true => quote!(let config = cx.entity_config::<Self>()?;),
            false => quote!(let config = &self.config;),
        });
        let is_exclusive = has(|it| matches!(it, Parameter::ContextMut(_)));
        let outs = (!is_exclusive).then(|| {
            quote! {
                let cx: &::brickwork::Context = cx;
                let outs = cx;
            }
        });
        let wait = self.is_async.then(|| quote!(.await));
        let call = quote!(#function(#(#arguments),*)#wait);
        let result = match &self.event {
            Event::Input { batch: Some(_), .. } => call,
            _ => quote!(::brickwork::__macros::HandlerReturn::into_result(#call)),
        };
        quote!({
            #meta
            #key
            #shared
            #config
            #outs
            #result
        })
    }
}

/// Returns the argument for a parameter, with `message`, `cx`, `outs`, `meta`, `key`, `config` and
/// `tx` in scope.
fn argument(parameter: &Parameter) -> TokenStream {
    match parameter {
        Parameter::Message(_) => quote!(message),
        Parameter::Out(port) => {
            let output = port.output();
            quote!(::brickwork::Out::of(outs, #output))
        }
        Parameter::Ask(port, answer) => {
            let request = port.request(answer);
            quote!(::brickwork::Ask::of(cx, #request))
        }
        Parameter::Meta(_) => quote!(meta),
        Parameter::Key(_) => quote!(key),
        Parameter::Shared(..) => quote!(shared),
        Parameter::Context | Parameter::ContextMut(_) => quote!(cx),
        Parameter::Tx(_) => quote!(tx),
        Parameter::Config(_) => quote!(&config),
        // Refused before.
        Parameter::Feed(_) | Parameter::Position(_) | Parameter::SourceContext => {
            TokenStream::new()
        }
    }
}

/// Returns the declarations and the constants of outputs and requests of handlers, each once.
///
/// # Errors
/// Two parameters of one name have different types.
pub(crate) fn ports(handlers: &[Handler]) -> Result<(TokenStream, TokenStream)> {
    let mut seen: Vec<(&Port, Option<&Type>)> = Vec::new();
    let (mut declared, mut constants) = (TokenStream::new(), TokenStream::new());
    for parameter in handlers.iter().flat_map(|handler| &handler.parameters) {
        let (port, answer) = match parameter {
            Parameter::Out(port) => (port, None),
            Parameter::Ask(port, answer) => (port, Some(&**answer)),
            _ => continue,
        };
        match seen.iter().find(|(other, _)| other.name == port.name) {
            None => {
                seen.push((port, answer));
                declared.extend(match answer {
                    None => {
                        let output = port.output();
                        constants.extend(port.constant());
                        quote!(ports.output(&#output);)
                    }
                    Some(answer) => {
                        let request = port.request(answer);
                        constants.extend(port.request_constant(answer));
                        quote!(ports.request(&#request);)
                    }
                });
            }
            Some((other, other_answer))
                if text(Some(&other.message)) == text(Some(&port.message))
                    && text(*other_answer) == text(answer) => {}
            Some(_) => {
                let text = format!(
                    "the port `{}` has another type in another handler: write the same type, or \
                     another name",
                    port.name
                );
                return Err(Error::new_spanned(&port.ident, text));
            }
        }
    }
    Ok((declared, constants))
}

/// Types are compared as they are written.
fn text(ty: Option<&Type>) -> String {
    ty.map(|ty| quote!(#ty).to_string()).unwrap_or_default()
}

fn batch(max: &LitInt, within: Option<&LitStr>) -> Result<TokenStream> {
    let within = match within {
        Some(text) => duration(text)?,
        None => quote!(::core::time::Duration::from_millis(#BATCH_WITHIN_MS)),
    };
    if max.base10_parse::<usize>()? == 0 {
        return Err(Error::new(max.span(), "a batch has at least one message"));
    }
    Ok(quote!(::brickwork::Batch { max: #max, within: #within }))
}

/// Returns `T` of a `Vec<T>`.
fn vec_of(ty: &Type) -> Option<Type> {
    let Type::Path(path) = ty else { return None };
    let segment = path.path.segments.last().filter(|it| it.ident == "Vec")?;
    let syn::PathArguments::AngleBracketed(arguments) = &segment.arguments else {
        return None;
    };
    arguments.args.iter().find_map(|argument| match argument {
        syn::GenericArgument::Type(ty) => Some(ty.clone()),
        _ => None,
    })
}

fn return_type(output: &ReturnType) -> TokenStream {
    match output {
        ReturnType::Default => quote!(()),
        ReturnType::Type(_, ty) => quote!(#ty),
    }
}
