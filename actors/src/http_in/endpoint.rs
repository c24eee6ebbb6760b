//! Endpoints: the routes of a config with all that a request to them needs.

use hyper::Method;

use super::HttpInConfig;
use super::content::ContentTypes;
use super::reply::{AnswerTemplate, check_header};
use super::route_config::RouteConfig;
use super::routes::{Found, NoRoute, RouteKey, Routes, check_parameter};

/// One route.
pub(super) struct Endpoint {
    pub(super) key: RouteKey,
    pub(super) output: String,
    /// Whether the caller waits for a service's reply.
    pub(super) replies: bool,
    /// Parameters of the query that become headers.
    pub(super) query: Vec<String>,
    pub(super) template: AnswerTemplate,
    pub(super) content_types: ContentTypes,
    /// Whether bodies go to files.
    pub(super) uploads: bool,
    pub(super) summary: Option<String>,
}

/// The routes of a config.
pub(super) struct Endpoints {
    all: Vec<Endpoint>,
    routes: Routes,
}

/// A problem of a route: its key, the path of the wrong setting below it, and the text.
#[derive(Debug)]
pub(super) struct RouteError {
    pub(super) key: String,
    pub(super) setting: String,
    pub(super) text: String,
}

impl Endpoints {
    /// # Errors
    /// Every problem of the routes.
    pub(super) fn new(config: &HttpInConfig) -> Result<Self, Vec<RouteError>> {
        let mut errors = Vec::new();
        let mut all = Vec::new();
        let mut keys = Vec::new();
        for (key, route) in config.route_table() {
            if let Some(endpoint) = Endpoint::new(key, &route, config, &mut errors) {
                all.push(endpoint);
                keys.push(key);
            }
        }
        check_outputs(&all, &keys, &mut errors);
        match Routes::new(all.iter().map(|endpoint| &endpoint.key)) {
            Ok(routes) if errors.is_empty() => Ok(Self { all, routes }),
            Ok(_) => Err(errors),
            Err((number, text)) => {
                errors.push(RouteError::new(keys[number], "", text));
                Err(errors)
            }
        }
    }

    /// The endpoint for a request, and the parameters of the path. A HEAD is served as a GET that
    /// has a reply.
    ///
    /// # Errors
    /// As [`Routes::find`].
    pub(super) fn find(&self, method: &Method, path: &str) -> Result<(&Endpoint, Found), NoRoute> {
        let found = match *method {
            Method::HEAD => {
                let found = self.routes.find(&Method::GET, path);
                found.and_then(|found| match self.all[found.route].replies {
                    true => Ok(found),
                    false => Err(NoRoute::Method(self.routes.methods(path))),
                })
            }
            _ => self.routes.find(method, path),
        }?;
        Ok((&self.all[found.route], found))
    }

    /// The methods of a path, for the header Allow.
    pub(super) fn allow(&self, path: &str) -> String {
        let mut methods = self.routes.methods(path);
        if self.find(&Method::HEAD, path).is_ok() {
            methods.push(Method::HEAD);
        }
        methods.push(Method::OPTIONS);
        let mut names: Vec<&str> = methods.iter().map(Method::as_str).collect();
        names.sort_unstable();
        names.join(", ")
    }

    /// Whether any route has files.
    pub(super) fn upload(&self) -> bool {
        self.all.iter().any(|endpoint| endpoint.uploads)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.all.iter()
    }
}

impl Endpoint {
    fn new(
        key: &str,
        route: &RouteConfig,
        config: &HttpInConfig,
        errors: &mut Vec<RouteError>,
    ) -> Option<Self> {
        let mut wrong = |setting: &str, text: String| {
            errors.push(RouteError::new(key, setting, text));
        };
        let parsed = RouteKey::parse(key).map_err(|text| wrong("", text)).ok()?;
        if let Err(error) = brickwork::check_name(&route.out) {
            wrong(
                "out",
                format!("it names the output of its messages: {error}"),
            );
        }
        for name in &route.query {
            if let Err(text) = check_parameter(name) {
                wrong("query", text);
            }
        }
        for name in route.headers.keys() {
            if let Err(text) = check_header(name) {
                wrong("headers", text);
            }
        }
        let replies = route.reply.unwrap_or(config.reply);
        if !replies && route.shapes_answer() {
            let text = "status, headers and body are made of a reply: set reply = true";
            wrong("", text.to_owned());
        }
        let content_types = route
            .content_types
            .as_ref()
            .unwrap_or(&config.content_types);
        let content_types = ContentTypes::new(content_types)
            .map_err(|text| wrong("content_types", text))
            .ok()?;
        if route.upload && matches!(parsed.method, Method::GET | Method::DELETE) {
            wrong("upload", "GET and DELETE have no body".to_owned());
        }
        if route.upload && config.secret.is_some() {
            let text = "the signature of a file is not checked: use an http-in without a secret";
            wrong("upload", text.to_owned());
        }
        Some(Self {
            content_types,
            uploads: route.upload,
            key: parsed,
            output: route.out.clone(),
            replies,
            query: route.query.clone(),
            template: AnswerTemplate::new(route),
            summary: route.summary.clone(),
        })
    }
}

impl RouteError {
    fn new(key: &str, setting: &str, text: String) -> Self {
        Self {
            key: key.to_owned(),
            setting: setting.to_owned(),
            text,
        }
    }
}

/// An output is a request or none.
fn check_outputs(all: &[Endpoint], keys: &[&str], errors: &mut Vec<RouteError>) {
    for (number, endpoint) in all.iter().enumerate() {
        let earlier = all[..number].iter().zip(keys);
        let mut other = earlier.filter(|(it, _)| it.output == endpoint.output);
        if let Some((_, other)) = other.find(|(it, _)| it.replies != endpoint.replies) {
            let text = format!(
                "the output {} has messages with a reply from one of these routes and without \
                 from the other, {other:?}: use two outputs",
                endpoint.output
            );
            errors.push(RouteError::new(keys[number], "", text));
        }
    }
}
