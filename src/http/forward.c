/* A request on its way to its target, and the response on its way back: which fields pass, and what is written in their
 * place.
 *
 * Fields belong to one connection or to the whole way (RFC 9110 7.6.1), and Connection names more of the first kind.
 * What is hard is that it is the peer who names them: nobody may name away what the other side needs to understand the
 * message. What frames, routes or belongs to the proxy is never copied but written anew. */
#include "adit/http/forward.h"

#include "http/head_priv.h"

#include <stdio.h>

/* Of this connection, whether Connection names them or not. */
static const char *const HOP_BY_HOP[] = {
	"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Proxy-Authenticate",
	"Proxy-Authentication-Info", "TE", "Transfer-Encoding", "Upgrade", "HTTP2-Settings", "Content-Length", NULL,
};

/* End-to-end, also when Connection names them: without them the message means something else. */
static const char *const END_TO_END[] = {
	"Host", "Via", "Authorization", "WWW-Authenticate", "Cookie", "Set-Cookie", "Cache-Control", "Pragma", "Vary",
	"Content-Type", "Content-Encoding", "Content-Language", "Content-Location", "Content-Range", "Content-Disposition",
	"Date", "Age", "Expires", "ETag", "Last-Modified", "Location", "Origin", "Range", "If-Match", "If-None-Match",
	"If-Modified-Since", "If-Unmodified-Since", "If-Range", "Expect", "Trailer", "Strict-Transport-Security",
	"Content-Security-Policy", "X-Frame-Options", "X-Content-Type-Options", NULL,
};

/* Never in a trailer section (RFC 9110 6.5.1), the ones above aside. */
static const char *const NOT_IN_TRAILERS[] = {
	"Max-Forwards", "Retry-After", "Warning", "Accept", "Accept-Charset", "Accept-Encoding", "Accept-Language",
	"User-Agent", "Referer", "Server", "Allow", "Accept-Ranges", "Forwarded", "Proxy-Status", "Sec-WebSocket-Key",
	"Sec-WebSocket-Accept", "Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol", "Sec-WebSocket-Version", NULL,
};

static bool is_among(const char *const *names, struct slice name)
{
	for (; *names; names++)
		if (slice_ieq(name, slice_of(*names)))
			return true;
	return false;
}

static bool is_field(const struct head_field *field, const char *name)
{
	return slice_ieq(field->name, slice_of(name));
}

/* --- what Connection names --------------------------------------------------------------------------------------- */

struct options {
	struct slice names[HEAD_OPTIONS_MAX]; /* the parser lets no more through */
	size_t n;
};

static void options_collect(struct options *o, struct slice fields)
{
	struct head_field field;
	struct slice option;

	o->n = 0;
	while (head_next_field(&fields, &field))
		while (is_field(&field, "Connection") && head_next_element(&field.value, &option))
			if (option.n > 0 && o->n < HEAD_OPTIONS_MAX)
				o->names[o->n++] = option;
}

static bool options_name(const struct options *o, struct slice name)
{
	for (size_t i = 0; i < o->n; i++)
		if (slice_ieq(name, o->names[i]))
			return true;
	return false;
}

/* The field is of this connection alone. */
static bool stays_here(const struct head_field *field, const struct options *o)
{
	return is_among(HOP_BY_HOP, field->name) || (options_name(o, field->name) && !is_among(END_TO_END, field->name));
}

/* --- writing ----------------------------------------------------------------------------------------------------- */

struct writer {
	char *out;
	size_t n, size;
	bool full;
};

static void put(struct writer *w, struct slice s)
{
	w->full = w->full || s.n > w->size - w->n;
	if (w->full || s.n == 0)
		return;
	memcpy(w->out + w->n, s.p, s.n);
	w->n += s.n;
}

static void put_text(struct writer *w, const char *text)
{
	put(w, slice_of(text));
}

static void put_number(struct writer *w, unsigned long long number)
{
	char text[24];

	snprintf(text, sizeof(text), "%llu", number);
	put_text(w, text);
}

/* As it came, but for white space at its end: never longer than the line was. */
static void put_field(struct writer *w, const struct head_field *field)
{
	struct slice line = { field->name.p, field->name.n + 1 };

	if (field->value.n > 0)
		line.n = (size_t)(field->value.p - field->name.p) + field->value.n;
	put(w, line);
	put_text(w, "\r\n");
}

static void put_via(struct writer *w, const char *protocol)
{
	put_text(w, "Via: ");
	put_text(w, protocol);
	put_text(w, " adit\r\n");
}

static size_t written(const struct writer *w)
{
	return w->full ? 0 : w->n;
}

/* --- requests ---------------------------------------------------------------------------------------------------- */

struct framing forward_request_framing(const struct head *head)
{
	if (head->has_content_length)
		return (struct framing){ FRAMING_LENGTH, head->content_length };
	return (struct framing){ head->chunked ? FRAMING_CHUNKED : FRAMING_NONE, 0 };
}

bool forward_wants_upgrade(const struct head *head)
{
	struct slice rest = head->fields;
	struct head_field field;
	bool named = false, websocket = false;

	if (head->minor_version == 0 || head->chunked || head->content_length > 0)
		return false;
	while (head_next_field(&rest, &field)) {
		named = named || (is_field(&field, "Connection") && head_list_has(field.value, "upgrade"));
		websocket = websocket || (is_field(&field, "Upgrade") && head_list_has(field.value, "websocket"));
	}
	return named && websocket;
}

enum reason forward_max_forwards(const struct head *head, struct forward_hops *out)
{
	static const unsigned long long MOST = 0x7fffffff; /* "the recipient's maximum supported value" */
	struct slice rest = head->fields;
	struct head_field field;

	*out = (struct forward_hops){ 0 };
	if (head->method != HEAD_OPTIONS && head->method != HEAD_TRACE)
		return REASON_OK;
	while (head_next_field(&rest, &field)) {
		bool digits = field.value.n > 0;

		if (!is_field(&field, "Max-Forwards"))
			continue;
		for (size_t i = 0; i < field.value.n; i++)
			digits = digits && field.value.p[i] >= '0' && field.value.p[i] <= '9';
		if (!digits || out->has)
			return REASON_MAX_FORWARDS_INVALID;
		out->has = true;
		if (!slice_to_u64(field.value, MOST + 1, &out->left))
			out->left = MOST + 1; /* digits alone: it is larger */
		out->zero = out->left == 0;
		out->left -= !out->zero;
	}
	return REASON_OK;
}

static void put_request_line(struct writer *w, const struct head *head)
{
	put(w, head->method_text);
	put_text(w, " ");
	if (head->path.n == 0 && head->method == HEAD_OPTIONS)
		put_text(w, "*"); /* RFC 9112 3.2.4 */
	else if (head->path.n == 0 || head->path.p[0] != '/')
		put_text(w, "/");
	put(w, head->path);
	put_text(w, " HTTP/1.1\r\n");
}

static void put_host(struct writer *w, const struct authority *target)
{
	bool brackets = strchr(target->host.text, ':') != NULL;

	put_text(w, brackets ? "Host: [" : "Host: ");
	put_text(w, target->host.text);
	put_text(w, brackets ? "]" : "");
	if (target->port != 80) {
		put_text(w, ":");
		put_number(w, target->port);
	}
	put_text(w, "\r\n");
}

static void put_framing(struct writer *w, struct framing framing)
{
	if (framing.kind == FRAMING_CHUNKED)
		put_text(w, "Transfer-Encoding: chunked\r\n");
	if (framing.kind == FRAMING_LENGTH) {
		put_text(w, "Content-Length: ");
		put_number(w, framing.length);
		put_text(w, "\r\n");
	}
}

static void put_connection(struct writer *w, const struct forward_options *options)
{
	if (options->upgrade)
		put_text(w, "Upgrade: websocket\r\n");
	if (options->upgrade || !options->keep_alive)
		put_text(w, "Connection: ");
	if (options->upgrade)
		put_text(w, options->keep_alive ? "upgrade\r\n" : "upgrade, close\r\n");
	else if (!options->keep_alive)
		put_text(w, "close\r\n");
}

/* HTTP/2 may cut Cookie into several fields, HTTP/1.1 wants one (RFC 9113 8.2.3). `rest`: what follows the first. */
static void put_cookies(struct writer *w, const struct head_field *first, struct slice rest)
{
	const char *separator = first->value.n > 0 ? "; " : "";
	struct head_field field;

	put_text(w, "Cookie: ");
	put(w, first->value);
	while (head_next_field(&rest, &field)) {
		if (!is_field(&field, "Cookie") || field.value.n == 0)
			continue;
		put_text(w, separator);
		put(w, field.value);
		separator = "; ";
	}
	put_text(w, "\r\n");
}

static void put_request_fields(struct writer *w, const struct head *head)
{
	struct slice rest = head->fields;
	struct head_field field;
	struct options options;
	bool cookies = false;

	options_collect(&options, head->fields);
	while (head_next_field(&rest, &field)) {
		if (stays_here(&field, &options) || is_field(&field, "Host") || is_field(&field, "Max-Forwards"))
			continue;
		/* HTTP/1.0 does not know it (RFC 9110 10.1.1); as 1.1 it would begin to mean something. */
		if (head->minor_version == 0 && is_field(&field, "Expect"))
			continue;
		if (!is_field(&field, "Cookie"))
			put_field(w, &field);
		else if (!cookies)
			put_cookies(w, &field, rest);
		cookies = cookies || is_field(&field, "Cookie");
	}
}

size_t forward_room(const struct head *head)
{
	/* Beside what is there: the words of the request line, a path, Host, Max-Forwards, Via, framing, Connection, and
	 * the space behind "Cookie:". */
	return head->method_text.n + head->path.n + head->fields.n + HOST_TEXT_MAX + 256;
}

size_t forward_request_head(const struct head *head, const struct forward_options *options, char *out, size_t size)
{
	struct writer w = { .out = out, .size = size };
	struct forward_hops hops;

	ADIT_ASSERT(head->has_authority && strlen(options->protocol) <= 8);
	put_request_line(&w, head);
	put_host(&w, &head->authority);
	put_request_fields(&w, head);
	if (forward_max_forwards(head, &hops) == REASON_OK && hops.has) {
		put_text(&w, "Max-Forwards: ");
		put_number(&w, hops.left);
		put_text(&w, "\r\n");
	}
	put_via(&w, options->protocol);
	put_framing(&w, options->framing);
	put_connection(&w, options);
	put_text(&w, "\r\n");
	return written(&w);
}

/* --- responses --------------------------------------------------------------------------------------------------- */

/* The length of what a GET would have brought, not of this message (RFC 9110 8.6). */
static bool tells_length(const struct response_head *head)
{
	return head->framing.kind == FRAMING_NONE && head->status >= 200 && head->status != 204;
}

size_t forward_response_fields(const struct response_head *head, char *out, size_t size)
{
	struct writer w = { .out = out, .size = size };
	struct slice rest = head->fields;
	struct head_field field;
	struct options options;
	bool length = !tells_length(head); /* is done with */

	options_collect(&options, head->fields);
	while (head_next_field(&rest, &field)) {
		if (!length && is_field(&field, "Content-Length")) {
			put_field(&w, &field);
			length = true; /* all say the same */
		} else if (!stays_here(&field, &options)) {
			put_field(&w, &field);
		}
	}
	put_via(&w, head->minor_version == 0 ? "1.0" : "1.1");
	if (head->upgrade)
		put_text(&w, "Upgrade: websocket\r\n");
	return written(&w);
}

size_t forward_trailers(struct slice trailers, char *out, size_t size)
{
	struct writer w = { .out = out, .size = size };
	struct head_field field;

	while (head_next_field(&trailers, &field))
		if (!is_among(HOP_BY_HOP, field.name) && !is_among(NOT_IN_TRAILERS, field.name) &&
		    (!is_among(END_TO_END, field.name) || is_field(&field, "ETag")))
			put_field(&w, &field);
	return written(&w);
}
