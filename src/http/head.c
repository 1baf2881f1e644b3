/* The strict HTTP/1 head parser: its machine, and the rules of requests (response_head.c has those of responses).
 *
 * What is hard is that the answer must not depend on how the network cut the bytes. Therefore bytes are taken strictly
 * one after the other, each check has one place in that order (byte, then line, then head), and a limit is decided by
 * the first byte that exceeds it. A line is judged when its CRLF is complete; only control characters, line ends
 * and limits are judged at once. */
#include "adit/http/head.h"

#include "http/head_priv.h"

/* --- characters ---------------------------------------------------------------------------------------------- */

static bool is_token_char(char c)
{
	if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'))
		return true;
	return c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL;
}

static bool is_token(struct slice s)
{
	for (size_t i = 0; i < s.n; i++)
		if (!is_token_char(s.p[i]))
			return false;
	return s.n > 0;
}

static bool is_control(char c)
{
	return ((unsigned char)c < 0x20 && c != '\t') || c == 0x7f;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

struct slice head_slice(const char *buf, struct head_span span)
{
	return (struct slice){ buf + span.from, span.n };
}

struct head_span head_span_of(const char *buf, struct slice s)
{
	return (struct head_span){ (size_t)(s.p - buf), s.n };
}

/* --- request line -------------------------------------------------------------------------------------------- */

static const struct {
	const char *text;
	enum head_method method;
} METHODS[] = {
	{ "CONNECT", HEAD_CONNECT }, { "GET", HEAD_GET }, { "HEAD", HEAD_HEAD }, { "POST", HEAD_POST },
	{ "PUT", HEAD_PUT }, { "DELETE", HEAD_DELETE }, { "OPTIONS", HEAD_OPTIONS }, { "TRACE", HEAD_TRACE },
	{ "PATCH", HEAD_PATCH },
};

static enum head_method method_of(struct slice text)
{
	for (size_t i = 0; i < sizeof(METHODS) / sizeof(METHODS[0]); i++)
		if (slice_eq(text, slice_of(METHODS[i].text)))
			return METHODS[i].method;
	return HEAD_OTHER;
}

/* http://host[:port] and what follows; `rest` is the target behind its scheme. */
static enum reason absolute_parse(struct slice rest, struct head *out)
{
	struct slice authority = rest;
	enum reason why;

	for (authority.n = 0; authority.n < rest.n; authority.n++)
		if (rest.p[authority.n] == '/' || rest.p[authority.n] == '?')
			break;
	out->form = HEAD_FORM_ABSOLUTE;
	out->path = (struct slice){ rest.p + authority.n, rest.n - authority.n };
	why = authority_parse_default(authority, 80, &out->authority);
	out->has_authority = why == REASON_OK;
	return why == REASON_BAD_AUTHORITY ? REASON_BAD_TARGET : why;
}

static enum reason target_parse(enum head_method method, struct slice target, struct head *out)
{
	static const struct slice HTTP = { "http://", 7 };
	enum reason why;

	if (method == HEAD_CONNECT) {
		out->form = HEAD_FORM_AUTHORITY;
		why = authority_parse(target, &out->authority);
		out->has_authority = why == REASON_OK;
		return why;
	}
	/* Visible ASCII without a fragment. Browsers send more of it raw than RFC 3986 has ("|", "^", "{"). */
	for (size_t i = 0; i < target.n; i++)
		if (target.p[i] <= ' ' || target.p[i] >= 0x7f || target.p[i] == '#')
			return REASON_BAD_TARGET;
	if (target.p[0] == '/') {
		out->form = HEAD_FORM_ORIGIN;
		out->path = target;
		return REASON_OK;
	}
	if (method == HEAD_OPTIONS && target.n == 1 && target.p[0] == '*') {
		out->form = HEAD_FORM_ASTERISK;
		return REASON_OK;
	}
	if (target.n >= HTTP.n && slice_ieq((struct slice){ target.p, HTTP.n }, HTTP))
		return absolute_parse((struct slice){ target.p + HTTP.n, target.n - HTTP.n }, out);
	return REASON_BAD_TARGET;
}

enum reason head_version(struct slice text, unsigned *minor)
{
	if (text.n != 8 || memcmp(text.p, "HTTP/", 5) != 0 || !is_digit(text.p[5]) || text.p[6] != '.' ||
	    !is_digit(text.p[7]))
		return REASON_BAD_REQUEST_LINE;
	if (text.p[5] != '1')
		return REASON_VERSION_UNSUPPORTED;
	*minor = text.p[7] == '0' ? 0 : 1;
	return REASON_OK;
}

static enum reason request_line_parse(struct head_parser *p, const char *buf, struct slice line)
{
	const char *first = memchr(line.p, ' ', line.n), *second;
	struct slice method, target, version;
	struct head scratch;
	enum reason why;

	if (!first)
		return REASON_BAD_REQUEST_LINE;
	method = (struct slice){ line.p, (size_t)(first - line.p) };
	target.p = first + 1;
	second = memchr(target.p, ' ', line.n - method.n - 1);
	if (!second)
		return REASON_BAD_REQUEST_LINE;
	target.n = (size_t)(second - target.p);
	version = (struct slice){ second + 1, line.n - method.n - target.n - 2 };
	if (!is_token(method) || target.n == 0 || memchr(target.p, '\t', target.n))
		return REASON_BAD_REQUEST_LINE;
	p->method = method_of(method);
	p->method_text = head_span_of(buf, method);
	p->target = head_span_of(buf, target);
	why = head_version(version, &p->minor_version);
	if (why != REASON_OK)
		return why;
	/* Refused now rather than after the fields. The result is made again at the end: it would be 300 bytes more of
	 * state. */
	return target_parse(p->method, target, &scratch);
}

/* --- fields -------------------------------------------------------------------------------------------------- */

bool head_next_element(struct slice *list, struct slice *out)
{
	const char *comma;
	size_t n;

	if (!list->p)
		return false;
	comma = list->n > 0 ? memchr(list->p, ',', list->n) : NULL;
	n = comma ? (size_t)(comma - list->p) : list->n;
	*out = slice_trim((struct slice){ list->p, n });
	*list = comma ? (struct slice){ comma + 1, list->n - n - 1 } : (struct slice){ 0 };
	return true;
}

bool head_list_has(struct slice list, const char *token)
{
	struct slice element;

	while (head_next_element(&list, &element))
		if (slice_ieq(element, slice_of(token)))
			return true;
	return false;
}

static enum reason on_host(struct head_parser *p, const char *buf, struct slice value)
{
	if (p->has_host)
		return REASON_HOST_DUPLICATE;
	p->has_host = true;
	p->host = head_span_of(buf, value);
	return REASON_OK;
}

static enum reason on_proxy_authorization(struct head_parser *p, const char *buf, struct slice value)
{
	if (p->has_proxy_authorization)
		return REASON_AUTH_MALFORMED;
	p->has_proxy_authorization = true;
	p->proxy_authorization = head_span_of(buf, value);
	return REASON_OK;
}

enum reason head_on_content_length(struct head_parser *p, ADIT_UNUSED const char *buf, struct slice value)
{
	unsigned long long length;

	if (!slice_to_u64(value, UINT64_MAX, &length) || (p->has_content_length && p->content_length != length))
		return REASON_BAD_CONTENT_LENGTH;
	p->has_content_length = true;
	p->content_length = length;
	return REASON_OK;
}

enum reason head_on_transfer_encoding(struct head_parser *p, ADIT_UNUSED const char *buf, struct slice value)
{
	p->chunked = !p->has_transfer_encoding && slice_ieq(value, slice_of("chunked"));
	p->has_transfer_encoding = true;
	return REASON_OK;
}

enum reason head_on_connection(struct head_parser *p, ADIT_UNUSED const char *buf, struct slice value)
{
	struct slice option;

	while (head_next_element(&value, &option)) {
		if (++p->option_count > HEAD_OPTIONS_MAX)
			return REASON_TOO_MANY_FIELDS;
		p->close |= slice_ieq(option, slice_of("close"));
	}
	return REASON_OK;
}

static enum reason on_expect(struct head_parser *p, ADIT_UNUSED const char *buf, struct slice value)
{
	p->expect_continue |= head_list_has(value, "100-continue");
	return REASON_OK;
}

static const struct head_field_rule REQUEST_FIELDS[] = {
	{ "Host", on_host },
	{ "Proxy-Authorization", on_proxy_authorization },
	{ "Content-Length", head_on_content_length },
	{ "Transfer-Encoding", head_on_transfer_encoding },
	{ "Connection", head_on_connection },
	{ "Expect", on_expect },
	{ NULL, NULL },
};

/* At the colon, whatever the name is. */
static bool line_split(struct slice line, struct head_field *out)
{
	const char *colon = memchr(line.p, ':', line.n);
	size_t n;

	if (!colon)
		return false;
	n = (size_t)(colon - line.p);
	out->name = (struct slice){ line.p, n };
	out->value = slice_trim((struct slice){ colon + 1, line.n - n - 1 });
	return true;
}

bool head_field_split(struct slice line, struct head_field *out)
{
	return line_split(line, out) && is_token(out->name);
}

static enum reason field_parse(struct head_parser *p, const char *buf, struct slice line, size_t limit)
{
	struct head_field field;

	if (++p->field_count > limit)
		return REASON_TOO_MANY_FIELDS;
	if (!head_field_split(line, &field))
		return REASON_BAD_FIELD_NAME;
	for (const struct head_field_rule *rule = p->rules->fields; rule->name; rule++)
		if (slice_ieq(field.name, slice_of(rule->name)))
			return rule->take(p, buf, field.value);
	return REASON_OK;
}

bool head_next_field(struct slice *rest, struct head_field *out)
{
	const char *lf = rest->n > 0 ? memchr(rest->p, '\n', rest->n) : NULL;
	struct slice line = { rest->p, lf ? (size_t)(lf - rest->p) + 1 : 0 };

	if (line.n < 2)
		return false;
	rest->p += line.n;
	rest->n -= line.n;
	line.n -= 2; /* CRLF */
	return line_split(line, out);
}

/* --- the whole head ------------------------------------------------------------------------------------------ */

static enum reason request_check(const struct head_parser *p, const char *buf)
{
	bool connect = p->method == HEAD_CONNECT;
	struct authority host;

	if (!p->has_host && p->minor_version > 0)
		return REASON_HOST_MISSING;
	/* Empty is right where the target has no authority (RFC 9110 7.2). */
	if (p->has_host && p->host.n == 0 && connect)
		return REASON_HOST_INVALID;
	/* The port is not used: 1 stands for none. */
	if (p->host.n > 0 && authority_parse_default(head_slice(buf, p->host), 1, &host) != REASON_OK)
		return REASON_HOST_INVALID;
	/* Anything that could be read in two ways ends a request before it begins (RFC 9112 6.1, 6.3). */
	if (p->has_transfer_encoding && (connect || !p->chunked || p->has_content_length || p->minor_version == 0))
		return REASON_TRANSFER_ENCODING;
	if (connect && p->has_content_length && p->content_length > 0)
		return REASON_CONNECT_WITH_BODY;
	return REASON_OK;
}

static const struct head_rules REQUEST_RULES = { true, request_line_parse, REQUEST_FIELDS, request_check };

static enum reason line_end(struct head_parser *p, const char *buf, const struct head_limits *limits)
{
	struct slice line = { buf + p->line, p->at - p->line - 2 };

	p->line = p->at;
	if (p->phase == HEAD_IN_START_LINE) {
		if (line.n == 0 && p->rules->crlf_before && !p->crlf_ignored) {
			p->crlf_ignored = true;
			return REASON_OK;
		}
		p->phase = HEAD_IN_FIELDS;
		p->fields_from = p->at;
		return p->rules->start_line(p, buf, line);
	}
	if (line.n > 0)
		return field_parse(p, buf, line, limits->fields);
	p->phase = HEAD_IS_DONE;
	return p->rules->check(p, buf);
}

enum reason head_byte(char c, bool first, bool *after_cr, bool *ends)
{
	*ends = false;
	if (*after_cr) {
		*after_cr = false;
		*ends = c == '\n';
		return *ends ? REASON_OK : REASON_BARE_CR;
	}
	if (c == '\r')
		*after_cr = true;
	else if (c == '\n')
		return REASON_BARE_LF;
	else if (is_control(c))
		return REASON_FORBIDDEN_BYTE;
	else if (first && (c == ' ' || c == '\t'))
		return REASON_OBS_FOLD;
	return REASON_OK;
}

/* Takes the byte at p->at. */
static enum reason take_byte(struct head_parser *p, const char *buf, const struct head_limits *limits)
{
	bool ends, first = p->phase == HEAD_IN_FIELDS && p->at == p->line;
	enum reason why = head_byte(buf[p->at++], first, &p->after_cr, &ends);

	if (ends)
		why = line_end(p, buf, limits);
	else if (why == REASON_OK && !p->after_cr && p->phase == HEAD_IN_START_LINE &&
		 p->at - p->line > limits->request_line_bytes)
		why = REASON_URI_TOO_LONG;
	if (why == REASON_OK && p->phase != HEAD_IS_DONE && p->at >= limits->head_bytes)
		why = REASON_HEAD_TOO_LARGE;
	return why;
}

/* Passes over bytes that take_byte would only count: inside a line, harmless, and short of every limit. */
static void skip_plain(struct head_parser *p, const char *buf, size_t len, const struct head_limits *limits)
{
	size_t end = limits->head_bytes > 0 ? limits->head_bytes - 1 : 0, line_max = SIZE_MAX;

	if (p->after_cr || p->at == p->line)
		return;
	if (p->phase == HEAD_IN_START_LINE && limits->request_line_bytes < SIZE_MAX - p->line)
		line_max = p->line + limits->request_line_bytes;
	end = end < len ? end : len;
	end = end < line_max ? end : line_max;
	while (p->at < end && (unsigned char)buf[p->at] >= ' ' && buf[p->at] != 0x7f)
		p->at++;
}

static void head_fill(const struct head_parser *p, const char *buf, struct head *out)
{
	enum reason why = target_parse(p->method, head_slice(buf, p->target), out);

	ADIT_ASSERT(why == REASON_OK); /* else the request line would have been refused */
	out->method = p->method;
	out->method_text = head_slice(buf, p->method_text);
	out->target = head_slice(buf, p->target);
	out->minor_version = p->minor_version;
	out->has_host = p->has_host;
	if (p->has_host)
		out->host = head_slice(buf, p->host);
	out->has_proxy_authorization = p->has_proxy_authorization;
	if (p->has_proxy_authorization)
		out->proxy_authorization = head_slice(buf, p->proxy_authorization);
	out->keep_alive = p->minor_version > 0 && !p->close;
	out->has_content_length = p->has_content_length;
	out->content_length = p->content_length;
	out->chunked = p->chunked;
	out->expect_continue = p->expect_continue;
	out->field_count = p->field_count;
	out->head_bytes = p->at;
	out->fields = (struct slice){ buf + p->fields_from, p->at - 2 - p->fields_from };
}

void head_init_rules(struct head_parser *p, const struct head_rules *rules)
{
	*p = (struct head_parser){ .phase = HEAD_IN_START_LINE, .why = REASON_OK, .rules = rules };
}

void head_init(struct head_parser *p)
{
	head_init_rules(p, &REQUEST_RULES);
}

enum head_status head_run(struct head_parser *p, const char *buf, size_t len, const struct head_limits *limits)
{
	ADIT_ASSERT(len >= p->at);
	while (p->at < len && p->phase != HEAD_IS_DONE && p->phase != HEAD_IS_BAD) {
		skip_plain(p, buf, len, limits);
		if (p->at == len)
			break;
		p->why = take_byte(p, buf, limits);
		if (p->why != REASON_OK)
			p->phase = HEAD_IS_BAD;
	}
	if (p->phase == HEAD_IS_BAD)
		return HEAD_BAD;
	return p->phase == HEAD_IS_DONE ? HEAD_DONE : HEAD_PARTIAL;
}

enum head_status head_parse(struct head_parser *p, const char *buf, size_t len, const struct head_limits *limits,
			    struct head *out, enum reason *why)
{
	enum head_status status = head_run(p, buf, len, limits);

	*why = p->why;
	if (status == HEAD_PARTIAL)
		return status;
	*out = (struct head){ .method = HEAD_OTHER };
	if (status == HEAD_DONE) {
		head_fill(p, buf, out);
	} else if (p->target.n > 0) {
		out->method = p->method;
		out->method_text = head_slice(buf, p->method_text);
		out->target = head_slice(buf, p->target);
		out->minor_version = p->minor_version;
	}
	return status;
}
