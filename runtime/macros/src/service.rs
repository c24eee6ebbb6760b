//! `#[service]`: an `impl` block, or a function, as a service type.

use std::path::{Path, PathBuf};

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, Expr, ExprLit, ImplItem, ImplItemFn, Item, ItemImpl, Lit, Result, Type, parse2};

use crate::attributes::ServiceArguments;
use crate::block::{check_block, forgotten, handler, name_of, summary};
use crate::function;
use crate::handler::{Event, Handler, ports};
use crate::inputs::{check_first, check_names};
use crate::parameters::{Parameter, parameters};
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
    check_block(&block, "service")?;
    let service = (*block.self_ty).clone();
    let name = name_of(&arguments.description, &service, "service")?;
    let mut handlers = Vec::new();
    let mut hooks = Hooks::default();
    for item in &mut block.items {
        if let ImplItem::Fn(method) = item {
            match handler(method, false)? {
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
