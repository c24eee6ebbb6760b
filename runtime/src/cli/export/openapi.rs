//! OpenAPI 3.1 of the routes that the sources of an app serve.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::app::{Plan, ServicePlan};
use crate::service::{HttpAnswer, HttpContent, HttpRoute, Kind};

/// Choices of the caller.
pub(super) struct Options<'a> {
    /// The only service to describe.
    pub(super) service: Option<&'a str>,
    /// URL of the API.
    pub(super) server: Option<&'a str>,
    /// Version of the API.
    pub(super) version: &'a str,
}

/// Returns the OpenAPI document of an app.
///
/// # Errors
/// No service has routes, or two services have the same route.
pub(super) fn document(plan: &Plan, options: &Options<'_>) -> Result<Value, String> {
    let mut document = Document {
        plan,
        // Definitions go where OpenAPI keeps schemas, with one name for each in the whole document.
        schemas: SchemaSettings::draft2020_12()
            .with(|settings| settings.definitions_path = "/components/schemas".into())
            .into_generator(),
        paths: Map::new(),
        credentials: Map::new(),
    };
    let mut services = Vec::new();
    for service in &plan.services {
        let routes = routes_of(service);
        let is_wanted = options.service.is_none_or(|label| *service.label == *label);
        if is_wanted && !routes.is_empty() {
            services.push((service, routes));
        }
    }
    if services.is_empty() {
        return Err(match options.service {
            Some(label) => format!("there is no service {label:?} with routes"),
            None => "no service of this app serves HTTP: http-in does".to_owned(),
        });
    }
    let shared = services.len() == 1;
    let mut servers = Vec::new();
    for (service, routes) in services {
        let url = options
            .server
            .map(str::to_owned)
            .or_else(|| url_of(service));
        let own: Vec<Value> = url.map(|url| json!({ "url": url })).into_iter().collect();
        let of_operation = (!shared && options.server.is_none()).then(|| own.clone());
        for route in routes {
            document.add(service, &route, of_operation.as_deref())?;
        }
        if servers != own {
            servers.extend(own);
        }
    }
    Ok(document.finish(options.version, servers))
}

fn routes_of(service: &ServicePlan) -> Vec<HttpRoute> {
    match service.blueprint.role() {
        Kind::Source(source) => source.http_routes(),
        Kind::Service(_) => Vec::new(),
    }
}

fn url_of(service: &ServicePlan) -> Option<String> {
    match service.blueprint.role() {
        Kind::Source(source) => source.listens().map(|address| format!("http://{address}")),
        Kind::Service(_) => None,
    }
}

struct Document<'a> {
    plan: &'a Plan,
    schemas: SchemaGenerator,
    paths: Map<String, Value>,
    credentials: Map<String, Value>,
}

impl Document<'_> {
    fn add(
        &mut self,
        service: &ServicePlan,
        route: &HttpRoute,
        servers: Option<&[Value]>,
    ) -> Result<(), String> {
        let (payload, reply) = self.schemas_of(service, &route.output);
        let mut operation = Map::new();
        if let Some(summary) = &route.summary {
            operation.insert("summary".into(), summary.as_str().into());
        }
        operation.insert("tags".into(), json!([&*service.label]));
        let parameters = self.parameters(route, payload.as_ref());
        if !parameters.is_empty() {
            operation.insert("parameters".into(), parameters.into());
        }
        if !route.content_types.is_empty() {
            let content: Map<String, Value> = route
                .content_types
                .iter()
                .map(|name| match (name.as_str(), &payload) {
                    ("application/json", Some(schema)) => (name.clone(), json!({"schema": schema})),
                    _ => (name.clone(), json!({})),
                })
                .collect();
            let body = json!({ "required": true, "content": content });
            operation.insert("requestBody".into(), body);
        }
        let answers = route.answers.iter().map(|it| answer(it, reply.as_ref()));
        operation.insert("responses".into(), Value::Object(answers.collect()));
        if let Some(header) = &route.credential {
            let scheme = json!({ "type": "apiKey", "in": "header", "name": header });
            self.credentials.insert(service.label.to_string(), scheme);
            operation.insert("security".into(), json!([{ &*service.label: [] }]));
        }
        if let Some(servers) = servers {
            operation.insert("servers".into(), servers.into());
        }
        let path = self.paths.entry(&route.path).or_insert_with(|| json!({}));
        let method = route.method.to_ascii_lowercase();
        if path.get(&method).is_some() {
            return Err(format!(
                "two services have the route {} {}: choose one with --service LABEL",
                route.method, route.path
            ));
        }
        path[method] = operation.into();
        Ok(())
    }

    fn parameters(&self, route: &HttpRoute, payload: Option<&Value>) -> Vec<Value> {
        let text = json!({ "type": "string" });
        let parameter = |place: &str, name: &str, required: bool| json!({ "name": name, "in": place, "required": required, "schema": text });
        let in_path: Vec<&str> = route
            .path
            .split('/')
            .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
            .collect();
        let mut all: Vec<Value> = Vec::new();
        all.extend(in_path.iter().map(|name| parameter("path", name, true)));
        // Without a body the payload is made of the parameters.
        let fields = payload
            .filter(|_| route.content_types.is_empty())
            .and_then(|schema| {
                self.resolved(schema)
                    .get("properties")?
                    .as_object()
                    .cloned()
            });
        let fields = fields.unwrap_or_default();
        let names = route.query.iter().map(String::as_str);
        let fields = fields.keys().map(String::as_str);
        let mut query: Vec<&str> = names
            .chain(fields.filter(|it| !in_path.contains(it)))
            .collect();
        query.sort_unstable();
        query.dedup();
        all.extend(query.iter().map(|name| parameter("query", name, false)));
        let headers = route.headers.iter();
        all.extend(headers.map(|name| parameter("header", name, true)));
        all
    }

    /// A schema, or the definition that it leads to.
    fn resolved<'s>(&'s self, schema: &'s Value) -> &'s Value {
        /// Longest chain of references, so that a ring of them ends.
        const STEPS_MAX: usize = 8;
        let mut schema = schema;
        for _ in 0..STEPS_MAX {
            let reference = schema.get("$ref").and_then(Value::as_str);
            let name = reference.and_then(|it| it.strip_prefix("#/components/schemas/"));
            match name.and_then(|name| self.schemas.definitions().get(name)) {
                Some(found) => schema = found,
                None => break,
            }
        }
        schema
    }

    /// The schemas of an output's messages and of their reply, as far as they are known.
    fn schemas_of(
        &mut self,
        service: &ServicePlan,
        output: &str,
    ) -> (Option<Value>, Option<Value>) {
        let wired = service.outputs.iter().find(|it| *it.name == *output);
        let topics = wired.map_or(&[][..], |wired| &wired.topics);
        let mut payloads: Vec<Value> = Vec::new();
        let mut replies: Vec<Value> = Vec::new();
        for reader in &self.plan.services {
            let table = reader.blueprint.ports();
            for (input, spec) in reader.inputs.iter().zip(&table.inputs) {
                if !input.topics.iter().any(|topic| topics.contains(topic)) {
                    continue;
                }
                payloads.extend(known((spec.schema)(&mut self.schemas)));
                let reply = spec.reply.map(|reply| reply(&mut self.schemas));
                replies.extend(reply.and_then(known));
            }
        }
        payloads.dedup();
        let payload = match payloads.len() {
            0 | 1 => payloads.pop(),
            // Each service gets a copy.
            _ => Some(json!({ "allOf": payloads })),
        };
        (payload, replies.into_iter().next())
    }

    fn finish(mut self, version: &str, servers: Vec<Value>) -> Value {
        let mut document = json!({
            "openapi": "3.1.0",
            "info": { "title": &*self.plan.name, "version": version },
            "servers": servers,
            "paths": self.paths,
        });
        let mut components = Map::new();
        let schemas = self.schemas.take_definitions(true);
        if !schemas.is_empty() {
            components.insert("schemas".into(), schemas.into());
        }
        if !self.credentials.is_empty() {
            components.insert("securitySchemes".into(), self.credentials.into());
        }
        if !components.is_empty() {
            document["components"] = components.into();
        }
        document
    }
}

/// A schema, unless it allows everything.
fn known(schema: schemars::Schema) -> Option<Value> {
    let schema = schema.to_value();
    let is_anything = match &schema {
        Value::Bool(allows) => *allows,
        Value::Object(rules) => rules.keys().all(|key| key == "title"),
        _ => false,
    };
    (!is_anything).then_some(schema)
}

fn answer(answer: &HttpAnswer, reply: Option<&Value>) -> (String, Value) {
    let status = answer
        .status
        .map_or("default".to_owned(), |it| it.to_string());
    let mut response = json!({ "description": answer.description });
    let content = match &answer.content {
        HttpContent::Nothing => None,
        HttpContent::Reply => Some((
            "application/json".to_owned(),
            reply.map_or(json!({}), |schema| json!({ "schema": schema })),
        )),
        HttpContent::Body(media_type, schema) => {
            Some((media_type.clone(), json!({ "schema": schema })))
        }
    };
    if let Some((media_type, content)) = content {
        response["content"] = json!({ media_type: content });
    }
    (status, response)
}
