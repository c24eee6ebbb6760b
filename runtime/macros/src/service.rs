//! `#[service]`: an `impl` block, or a function, as a service type.

use std::path::{Path, PathBuf};

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{
    Attribute, Error, Expr, ExprLit, ImplItem, ImplItemFn, Item, ItemImpl, Lit, Meta, Result, Type,
    parse2,
};

use crate::attributes::{Description, InputArguments, Interval, ServiceArguments};
use crate::function;
use crate::handler::{Event, Handler, ports};
use crate::inputs::{check_first, check_names};
use crate::names::type_name;
use crate::parameters::{Parameter, parameters, write_lifetimes};
use crate::share::{check_once, share};

pub(crate) fn service(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let arguments = ServiceArguments::parse(arguments)?;
    match parse2::<Item>(item)? {
        Item::Impl(block) => expand_block(&arguments, block),
        Item::Fn(item) => function::expand(&arguments, item),
        Item::Struct(item) => Err(Error::new_spanned(
            item.ident,
            "`#[service]` belongs on the `impl` block with the handlers",
        )),
        other => Err(Error::new_spanned(
            other,
            "`#[service]` belongs on an `impl` block or a function",
        )),
    }
}

/// Everything that the impl of `Service` is made of.
pub(crate) struct Parts<'a> {
    pub(crate) service: &'a Type,
    pub(crate) name: String,
    pub(crate) summary: String,
    pub(crate) config: Option<Type>,
    pub(crate) arguments: &'a ServiceArguments,
    /// Body of `start`, with `config` and `cx` in scope.
    pub(crate) start: TokenStream,
    pub(crate) handlers: &'a [Handler],
    /// Further items of the impl.
    pub(crate) others: TokenStream,
}

impl Parts<'_> {
    pub(crate) fn expand(self) -> Result<TokenStream> {
        let Self {
            service,
            name,
            summary,
            start,
            handlers,
            others,
            ..
        } = &self;
        let config = match &self.config {
            Some(config) => quote!(#config),
            None => quote!(::brickwork::NoConfig),
        };
        let store = self.arguments.store.as_ref().map(store).transpose()?;
        let key = self.arguments.key.iter();
        let key = quote!(#(const KEY: &'static str = #key;)*);
        check_key(self.arguments, handlers)?;
        let constants_of_type = self.arguments.description.constants();
        let declarations = handlers.iter().map(Handler::declaration);
        let (outputs, constants) = ports(handlers)?;
        let inputs = handlers.iter().map(Handler::constant);
        let implementations = handlers.iter().map(|it| it.implementation(service));
        let arms: Vec<_> = handlers.iter().map(Handler::tick_arm).collect();
        let has_ticks = handlers
            .iter()
            .any(|it| matches!(it.event, Event::Tick { .. }));
        let tick = has_ticks.then(|| {
            quote! {
                async fn tick(
                    &mut self,
                    tick: ::brickwork::Tick,
                    cx: &mut ::brickwork::Context,
                ) -> ::core::result::Result<(), ::brickwork::Failure> {
                    match tick.name() {
                        #(#arms)*
                        _ => Ok(()),
                    }
                }
            }
        });
        Ok(quote! {
            /// The ports, for tests and callers.
            #[allow(dead_code, private_interfaces, missing_docs)]
            impl #service {
                #(#inputs)*
                #constants
            }

            const _: () = {
                impl ::brickwork::Service for #service {
                    const NAME: &'static str = #name;
                    const SUMMARY: &'static str = #summary;
                    #constants_of_type
                    #store
                    #key
                    type Config = #config;

                    fn ports(config: &Self::Config, ports: &mut ::brickwork::Ports<Self>) {
                        let _ = config;
                        #(#declarations)*
                        #outputs
                    }

                    async fn start(
                        config: &Self::Config,
                        cx: &mut ::brickwork::Context,
                    ) -> ::core::result::Result<Self, ::brickwork::Failure> {
                        #start
                    }

                    #tick
                    #others
                }

                #(#implementations)*
            };
        })
    }
}

fn expand_block(arguments: &ServiceArguments, mut block: ItemImpl) -> Result<TokenStream> {
    if let Some(parameter) = block.generics.params.first() {
        return Err(Error::new_spanned(
            parameter,
            "a service type has no type parameters and no lifetimes: a manifest could not name them",
        ));
    }
    if let Some((path, _)) = &block.trait_ {
        return Err(Error::new_spanned(
            path,
            "`#[service]` belongs on an `impl` block without a trait",
        ));
    }
    let service = (*block.self_ty).clone();
    let name = match (&arguments.description.name, &service) {
        (Some(name), _) => name.clone(),
        (None, Type::Path(path)) if path.path.segments.last().is_some() => {
            let segment = path.path.segments.last();
            segment.map(|it| type_name(&it.ident)).unwrap_or_default()
        }
        _ => {
            return Err(Error::new_spanned(
                &service,
                "write a name: `#[service(name = \"…\")]`",
            ));
        }
    };
    let mut handlers = Vec::new();
    let mut hooks = Hooks::default();
    for item in &mut block.items {
        if let ImplItem::Fn(method) = item {
            match handler(method)? {
                Some(handler) => handlers.push(handler),
                None => hooks.look_at(method)?,
            }
        }
    }
    if handlers.is_empty() {
        return Err(Error::new_spanned(
            &service,
            "the service has no handler: mark a method with `#[input]` or `#[tick(\"10s\")]`",
        ));
    }
    check_names(&block, &handlers)?;
    check_first(&handlers)?;
    let in_handlers = handlers.iter().flat_map(|handler| &handler.parameters);
    let taken: Vec<_> = in_handlers.chain(&hooks.parameters_of_start).collect();
    let share = share(&block, &taken)?;
    let start = hooks.start.unwrap_or_else(|| {
        // The error of a type without `Default` points at the type.
        let span = service.span();
        quote_spanned! {span=>
            let _ = (config, cx);
            Ok(<#service as ::core::default::Default>::default())
        }
    });
    let (share, config_of_share) = match share {
        Some(share) => (share.statements, share.config),
        None => (TokenStream::new(), None),
    };
    let parts = Parts {
        service: &service,
        name,
        summary: summary(&arguments.description, &block.attrs),
        config: arguments
            .config
            .clone()
            .or(hooks.config)
            .or(config_of_share),
        arguments,
        start: quote!(#share #start),
        handlers: &handlers,
        others: hooks.others,
    };
    let implementation = parts.expand()?;
    Ok(quote!(#block #implementation))
}

/// Takes the attribute of a handler away and returns the handler.
fn handler(method: &mut ImplItemFn) -> Result<Option<Handler>> {
    let is_handler = |attribute: &Attribute| {
        ["input", "tick"]
            .iter()
            .any(|it| attribute.path().is_ident(it))
    };
    let Some(index) = method.attrs.iter().position(is_handler) else {
        return Ok(None);
    };
    let attribute = method.attrs.remove(index);
    if let Some(second) = method.attrs.iter().find(|it| is_handler(it)) {
        return Err(Error::new_spanned(second, "a method is one handler"));
    }
    let name = &method.sig.ident;
    let function = match method.sig.receiver() {
        Some(receiver) if !matches!(receiver.kind, syn::ReceiverKind::Reference(..)) => {
            return Err(Error::new_spanned(receiver, "write `&mut self`"));
        }
        Some(_) => quote!(self.#name),
        None => quote!(Self::#name),
    };
    let handler = match attribute.path().is_ident("input") {
        true => {
            let arguments = InputArguments::parse(&attribute)?;
            Handler::input(&method.sig, arguments, None, function)?
        }
        false => Handler::tick(&method.sig, Interval::parse(&attribute)?, function)?,
    };
    write_lifetimes(&mut method.sig);
    for parameter in &handler.parameters {
        if let Parameter::Config(ty) = parameter {
            return Err(Error::new_spanned(
                ty,
                "a message is taken by value, and the config is given to `start`: keep there \
                 what the handlers need of it",
            ));
        }
    }
    Ok(Some(handler))
}

/// A handler with the parameter `Key` belongs to a service with a key.
fn check_key(arguments: &ServiceArguments, handlers: &[Handler]) -> Result<()> {
    if arguments.key.is_some() {
        return Ok(());
    }
    let mut parameters = handlers.iter().flat_map(|handler| &handler.parameters);
    match parameters.find(|it| matches!(it, Parameter::Key(_))) {
        Some(parameter) => Err(Error::new_spanned(
            parameter.tokens(),
            "the service has no key: write the field of its messages, such as \
             `#[service(key = \"customer\")]`",
        )),
        None => Ok(()),
    }
}

/// The methods with a meaning of their own: `start`, `stop`, `check` and `concurrency`.
#[derive(Default)]
struct Hooks {
    config: Option<Type>,
    start: Option<TokenStream>,
    parameters_of_start: Vec<Parameter>,
    others: TokenStream,
}

impl Hooks {
    fn look_at(&mut self, method: &ImplItemFn) -> Result<()> {
        let signature = &method.sig;
        let name = &signature.ident;
        let wait = signature.asyncness.map(|_| quote!(.await));
        match name.to_string().as_str() {
            "start" => {
                let (mut arguments, mut shared) = (Vec::new(), None);
                self.parameters_of_start = parameters(signature)?;
                check_once(&self.parameters_of_start)?;
                for parameter in &self.parameters_of_start {
                    arguments.push(match parameter {
                        Parameter::Config(ty) => {
                            self.config = Some(ty.clone());
                            quote!(config)
                        }
                        Parameter::Shared(..) => {
                            shared = Some(quote!(let shared = ::brickwork::Shared::of(cx);));
                            quote!(shared)
                        }
                        Parameter::Context | Parameter::ContextMut(_) => quote!(cx),
                        _ => {
                            return Err(Error::new_spanned(
                                &signature.inputs,
                                "`start` takes the config as `&Config`, `Shared<T>` and `&Context`",
                            ));
                        }
                    });
                }
                self.start = Some(quote! {
                    let _ = (config, &cx);
                    #shared
                    ::brickwork::__macros::HandlerReturn::into_result(
                        Self::start(#(#arguments),*)#wait
                    )
                });
            }
            "stop" => {
                let context = match parameters(signature)?.as_slice() {
                    [] => TokenStream::new(),
                    [Parameter::Context | Parameter::ContextMut(_)] => quote!(cx),
                    _ => {
                        let text = "`stop` takes `&mut self` and `&Context`";
                        return Err(Error::new_spanned(&signature.inputs, text));
                    }
                };
                self.others.extend(quote! {
                    async fn stop(
                        &mut self,
                        cx: &mut ::brickwork::Context,
                    ) -> ::core::result::Result<(), ::brickwork::Failure> {
                        let _ = &cx;
                        ::brickwork::__macros::HandlerReturn::into_result(
                            Self::stop(self, #context)#wait
                        )
                    }
                });
            }
            "check" => self.others.extend(quote! {
                fn check(
                    config: &Self::Config,
                ) -> ::core::result::Result<(), ::std::vec::Vec<::brickwork::ConfigError>> {
                    Self::check(config)
                }
            }),
            "concurrency" => self.others.extend(quote! {
                fn concurrency(config: &Self::Config) -> usize {
                    Self::concurrency(config)
                }
            }),
            _ => forgotten(method)?,
        }
        Ok(())
    }
}

/// A method with the parameters of a handler is one whose attribute was forgotten.
fn forgotten(method: &ImplItemFn) -> Result<()> {
    let Ok(parameters) = parameters(&method.sig) else {
        return Ok(());
    };
    let is_handler = parameters
        .iter()
        .any(|it| matches!(it, Parameter::Out(_) | Parameter::Ask(..)));
    match is_handler && matches!(method.vis, syn::Visibility::Inherited) {
        true => {
            let text = "this method has the parameters of a handler: mark it with `#[input]` or \
                        `#[tick(\"10s\")]`, or make it a function outside of this block";
            Err(Error::new_spanned(&method.sig.ident, text))
        }
        false => Ok(()),
    }
}

/// Returns `const STORE`: from a folder of SQL files, or from an expression.
fn store(expression: &Expr) -> Result<TokenStream> {
    let Expr::Lit(ExprLit {
        lit: Lit::Str(folder),
        ..
    }) = expression
    else {
        return Ok(quote! {
            const STORE: &'static [::brickwork::sqlite::Migration] = #expression;
        });
    };
    let root = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let path = root.unwrap_or_default().join(folder.value());
    let files = sql_files(&path).map_err(|why| Error::new(folder.span(), why))?;
    let migrations = files.iter().map(|file| {
        let name = file.file_stem().map(|it| it.to_string_lossy().into_owned());
        let file = file.to_string_lossy().into_owned();
        quote!(::brickwork::sqlite::Migration::new(#name, ::core::include_str!(#file)))
    });
    Ok(quote! {
        const STORE: &'static [::brickwork::sqlite::Migration] = &[#(#migrations),*];
    })
}

/// Returns the SQL files of a folder in the order of their numbers.
fn sql_files(folder: &Path) -> std::result::Result<Vec<PathBuf>, String> {
    let unreadable = |error: std::io::Error| format!("can't read {}: {error}", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_none_or(|extension| extension != "sql") {
            continue;
        }
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let digits: String = name.chars().take_while(char::is_ascii_digit).collect();
        let number: u64 = digits.parse().map_err(|_| {
            format!("{name} has no number: name the files 1-….sql, 2-….sql and so on")
        })?;
        if let Some((_, other)) = files.iter().find(|(other, _)| *other == number) {
            let other: &PathBuf = other;
            return Err(format!(
                "{name} and {} have the same number",
                other.display()
            ));
        }
        files.push((number, path));
    }
    files.sort();
    match files.is_empty() {
        true => Err(format!("there is no .sql file in {}", folder.display())),
        false => Ok(files.into_iter().map(|(_, path)| path).collect()),
    }
}

/// Returns the doc comment of an item, for the type that is made of it.
pub(crate) fn documentation(attrs: &[Attribute]) -> TokenStream {
    let docs = docs(attrs);
    match docs.is_empty() {
        true => quote!(#[allow(missing_docs)]),
        false => quote!(#(#[doc = #docs])*),
    }
}

/// Returns the lines of the doc comment.
fn docs(attrs: &[Attribute]) -> Vec<String> {
    let lines = attrs.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(ExprLit {
                lit: Lit::Str(text),
                ..
            }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    });
    lines.collect()
}

/// Returns the summary: the argument, or the first paragraph of the doc comment.
pub(crate) fn summary(arguments: &Description, attrs: &[Attribute]) -> String {
    if let Some(summary) = &arguments.summary {
        return summary.value();
    }
    let lines = docs(attrs);
    let lines = lines.iter().map(|line| line.trim());
    let first: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    first.join(" ").trim_end_matches('.').to_owned()
}
