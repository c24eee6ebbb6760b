//! The status page at `/`: HTML without scripts or external resources, which reloads itself every
//! few seconds.

use std::fmt::{self, Display, Write as _};

use crate::status::{GroupSnapshot, ServiceSnapshot, Snapshot};

pub(super) const STYLE_PATH: &str = "/style.css";

pub(super) const STYLE: &str = "\
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .35rem .8rem .35rem 0; text-align: left; border-bottom: 1px solid #8885; }
th.n, td.n { text-align: right; font-variant-numeric: tabular-nums; }
.down, .not { color: #c22; font-weight: 600; }
.starting, .paused, .stopping, .breaker { color: #a60; font-weight: 600; }
";

/// Renders the page.
pub(super) fn render(app: &Snapshot<'_>) -> String {
    let mut page = String::with_capacity(4 * 1024);
    // Writing to a string can't fail.
    let _infallible = write_page(&mut page, app);
    page
}

fn write_page(page: &mut String, app: &Snapshot<'_>) -> fmt::Result {
    let name = Escaped(app.app);
    write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <meta http-equiv=\"refresh\" content=\"5\">\n\
         <title>{name}</title>\n<link rel=\"stylesheet\" href=\"{STYLE_PATH}\">\n</head>\n\
         <body>\n<h1>{name}</h1>\n"
    )?;
    write_state(page, app)?;
    page.push_str(
        "<div class=\"wide\"><table>\n<thead><tr><th>service</th><th>use</th><th>state</th>\
         <th class=\"n\">instances</th><th class=\"n\">mailbox</th><th class=\"n\">queued</th>\
         <th class=\"n\">ok</th><th class=\"n\">not ok</th><th class=\"n\">emitted</th>\
         <th class=\"n\">restarts</th><th>reads</th><th>feeds</th></tr></thead>\n<tbody>\n",
    );
    for service in &app.services {
        write_row(page, service)?;
    }
    page.push_str("</tbody></table></div>\n");
    write_groups(page, &app.groups)?;
    page.push_str(
        "<p><a href=\"/api/app\">as JSON</a> · \
         <a href=\"/metrics\">metrics</a> · <a href=\"/health/ready\">readiness</a> · \
         <a href=\"/health/live\">liveness</a></p>\n</body>\n</html>\n",
    );
    Ok(())
}

fn write_state(page: &mut String, app: &Snapshot<'_>) -> fmt::Result {
    let (scheme, version, process) = (app.transport.scheme, app.version, app.process);
    let (phase, started) = (app.phase.as_str(), &app.started);
    writeln!(
        page,
        "<p>{phase} since {started} on <code>{scheme}:</code>, process {process}, \
         brickwork {version}</p>"
    )?;
    if app.ready {
        page.push_str("<p>ready</p>\n");
    } else {
        page.push_str("<p class=\"not\">not ready</p>\n");
    }
    if app.reasons.len() + app.notes.len() == 0 {
        return Ok(());
    }
    page.push_str("<ul>\n");
    for reason in app.reasons.iter().chain(&app.notes) {
        writeln!(page, "<li>{}</li>", Escaped(reason))?;
    }
    page.push_str("</ul>\n");
    Ok(())
}

fn write_groups(page: &mut String, groups: &[GroupSnapshot<'_>]) -> fmt::Result {
    if groups.is_empty() {
        return Ok(());
    }
    page.push_str(
        "<div class=\"wide\"><table>\n<thead><tr><th>group</th><th>strategy</th>\
         <th class=\"n\">restarts</th><th>services</th></tr></thead>\n<tbody>\n",
    );
    for group in groups {
        let (name, strategy, restarts) = (Escaped(group.group), group.strategy, group.restarts);
        write!(
            page,
            "<tr><td>{name}</td><td>{strategy}</td><td class=\"n\">{restarts}</td>"
        )?;
        write_names(page, group.services.iter())?;
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody></table></div>\n");
    Ok(())
}

fn write_row(page: &mut String, service: &ServiceSnapshot<'_>) -> fmt::Result {
    let (label, service_type) = (Escaped(service.service), Escaped(service.service_type));
    let state = service.state.as_str();
    let ok = service.handled.of("ok");
    let not_ok = service.handled.total() - ok;
    let queued: Option<u64> = service
        .inputs
        .iter()
        .map(|input| input.queue.as_ref().map(|queue| queue.messages()))
        .sum();
    let queued = queued.map_or_else(|| "?".to_owned(), |queued| queued.to_string());
    let emitted: u64 = service.outputs.iter().map(|output| output.emitted).sum();
    write!(
        page,
        "<tr><td>{label}</td><td>{service_type}</td><td class=\"{state}\">{state}</td>\
         <td class=\"n\">{}/{}</td><td class=\"n\">{}</td><td class=\"n\">{queued}</td>\
         <td class=\"n\">{ok}</td><td class=\"n\">{not_ok}</td><td class=\"n\">{emitted}</td>\
         <td class=\"n\">{}</td>",
        service.instances.ready,
        service.instances.wanted,
        service.mailbox.messages,
        service.restarts.total(),
    )?;
    write_names(page, service.inputs.iter().flat_map(|input| &input.topics))?;
    write_names(
        page,
        service.outputs.iter().flat_map(|output| &output.topics),
    )?;
    page.push_str("</tr>\n");
    Ok(())
}

/// Writes names into a cell.
fn write_names<'a>(page: &mut String, names: impl Iterator<Item = &'a &'a str>) -> fmt::Result {
    page.push_str("<td>");
    for (number, name) in names.enumerate() {
        let comma = if number > 0 { ", " } else { "" };
        write!(page, "{comma}{}", Escaped(name))?;
    }
    page.push_str("</td>");
    Ok(())
}

/// A text with HTML characters escaped.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_characters_are_escaped() {
        assert_eq!(
            Escaped("<img src=x onerror='a(\"&\")'>").to_string(),
            "&lt;img src=x onerror=&#39;a(&quot;&amp;&quot;)&#39;&gt;"
        );
    }
}
