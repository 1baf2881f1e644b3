/* Any head that the parser takes, forwarded: what goes on is taken by the parser again, says where it goes and where it
 * ends exactly once, and carries nothing of the proxy's. The first byte chooses: a request with these options, or a
 * response to this method. */
#include "adit/base/obj.h"
#include "adit/http/forward.h"

#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct head_limits LIMITS = { 8192, 32768, 100 }, WIDE = { 40000, 80000, 200 };

static char *buffer(size_t n)
{
	char *p = malloc(n ? n : 1);

	if (!p)
		abort();
	return p;
}

static bool is(const struct head_field *field, const char *name)
{
	return slice_ieq(field->name, slice_of(name));
}

static size_t count(struct slice fields, const char *name)
{
	struct head_field field;
	size_t n = 0;

	while (head_next_field(&fields, &field))
		n += is(&field, name);
	return n;
}

/* Is `name` named by a Connection field? */
static bool is_named(struct slice fields, struct slice name)
{
	struct head_field field;

	while (head_next_field(&fields, &field)) {
		const char *p = field.value.p, *end = p + field.value.n;

		if (!is(&field, "connection"))
			continue;
		while (p < end) {
			const char *comma = memchr(p, ',', (size_t)(end - p)), *to = comma ? comma : end;

			if (slice_ieq(slice_trim((struct slice){ p, (size_t)(to - p) }), name))
				return true;
			p = to + 1;
		}
	}
	return false;
}

/* Of this connection alone, and written anew by nobody. */
static const char *const NEVER[] = { "proxy-authorization", "proxy-authenticate", "proxy-connection", "keep-alive", "te",
				     "http2-settings" };

/* Connection may take it away; the other fields with such names are needed by whoever reads the message. */
static bool is_extra(const struct head_field *field)
{
	return field->name.n > 2 && slice_ieq((struct slice){ field->name.p, 2 }, slice_of("x-")) &&
	       !is(field, "x-frame-options") && !is(field, "x-content-type-options");
}

/* What passes was there as often; what is not to pass does not. */
static void check_fields(struct slice from, struct slice to)
{
	struct head_field field;
	struct slice rest = to;

	for (size_t i = 0; i < sizeof(NEVER) / sizeof(NEVER[0]); i++)
		ADIT_ASSERT(count(to, NEVER[i]) == 0);
	while (head_next_field(&rest, &field)) {
		char name[16];

		if (is(&field, "host") || is(&field, "via") || is(&field, "max-forwards") || is(&field, "content-length") ||
		    is(&field, "transfer-encoding") || is(&field, "connection") || is(&field, "upgrade") ||
		    is(&field, "cookie"))
			continue;
		if (field.name.n < sizeof(name)) {
			memcpy(name, field.name.p, field.name.n);
			name[field.name.n] = '\0';
			ADIT_ASSERT(memchr(name, 0, field.name.n) || count(from, name) == count(to, name));
		}
		ADIT_ASSERT(!is_extra(&field) || !is_named(from, field.name));
	}
	ADIT_ASSERT(count(to, "via") == count(from, "via") + 1);
}

static bool parse(const char *p, size_t n, const struct head_limits *limits, struct head *head)
{
	struct head_parser parser;
	enum reason why;

	head_init(&parser);
	return head_parse(&parser, p, n, limits, head, &why) == HEAD_DONE;
}

/* The two say the same about the body. */
static void check_framing(const struct head *again, struct framing framing)
{
	struct framing f = forward_request_framing(again);

	ADIT_ASSERT(f.kind == framing.kind && (f.kind != FRAMING_LENGTH || f.length == framing.length));
	ADIT_ASSERT(count(again->fields, "content-length") == (framing.kind == FRAMING_LENGTH));
	ADIT_ASSERT(count(again->fields, "transfer-encoding") == (framing.kind == FRAMING_CHUNKED));
}

static void check_request(const struct head *head, const struct forward_options *options, const char *out, size_t n)
{
	struct head again;
	struct authority host;
	bool taken = parse(out, n, &WIDE, &again);

	ADIT_ASSERT(taken && again.head_bytes == n);
	ADIT_ASSERT(slice_eq(again.method_text, head->method_text) && again.minor_version == 1);
	if (again.form == HEAD_FORM_ORIGIN) {
		size_t added = again.path.n - head->path.n;

		ADIT_ASSERT(added <= 1 && slice_eq((struct slice){ again.path.p + added, head->path.n }, head->path));
	} else {
		ADIT_ASSERT(again.form == HEAD_FORM_ASTERISK && head->path.n == 0);
	}
	ADIT_ASSERT(count(again.fields, "host") == 1 && memcmp(again.fields.p, "Host: ", 6) == 0);
	taken = authority_parse_default(again.host, 80, &host) == REASON_OK;
	ADIT_ASSERT(taken && strcmp(host.host.text, head->authority.host.text) == 0 && host.port == head->authority.port);
	check_framing(&again, options->framing);
	ADIT_ASSERT(!again.has_proxy_authorization && again.keep_alive == options->keep_alive);
	ADIT_ASSERT(forward_wants_upgrade(&again) ==
		    (options->upgrade && options->framing.kind != FRAMING_CHUNKED && options->framing.length == 0));
	ADIT_ASSERT(count(again.fields, "connection") <= 1 && count(again.fields, "upgrade") == options->upgrade);
	ADIT_ASSERT(count(again.fields, "cookie") == (count(head->fields, "cookie") > 0));
	check_fields(head->fields, again.fields);
}

static void forward_request(uint8_t choice, const char *p, size_t n)
{
	static const char *const protocols[] = { "1.0", "1.1", "2" };
	struct head head;
	struct forward_options options = { .protocol = protocols[choice % 3], .upgrade = choice & 4, .keep_alive = choice & 8 };
	struct forward_hops hops;
	size_t room, written;
	char *out;

	if (!parse(p, n, &LIMITS, &head) || head.form != HEAD_FORM_ABSOLUTE)
		return;
	if (choice & 16 && !head.has_content_length)
		head.chunked = true; /* as HTTP/2 has it, without a field */
	options.framing = forward_request_framing(&head);
	ADIT_ASSERT(forward_max_forwards(&head, &hops) == REASON_OK || head.method == HEAD_OPTIONS ||
		    head.method == HEAD_TRACE);
	room = forward_room(&head);
	out = buffer(room);
	written = forward_request_head(&head, &options, out, room);
	ADIT_ASSERT(written > 0 && written <= room);
	check_request(&head, &options, out, written);
	ADIT_ASSERT(forward_request_head(&head, &options, out, written - 1) == 0);
	free(out);
}

static void forward_response(uint8_t choice, const char *p, size_t n)
{
	enum head_method method = choice & 1 ? HEAD_HEAD : HEAD_GET;
	struct response_parser parser;
	struct response_head head, again;
	size_t room, written, line;
	enum head_status status;
	enum reason why;
	char *out;

	response_parser_init(&parser, method);
	if (response_parse(&parser, p, n, &LIMITS, &head, &why) != HEAD_DONE)
		return;
	room = head.fields.n + FORWARD_FIELDS_ROOM;
	out = buffer(room + 40);
	line = (size_t)snprintf(out, 40, "HTTP/1.1 %d x\r\n", head.status);
	written = forward_response_fields(&head, out + line, room);
	ADIT_ASSERT(written > 0 && forward_response_fields(&head, out + line, written - 1) == 0);
	written = forward_response_fields(&head, out + line, written) + line;
	memcpy(out + written, "\r\n", 2);
	response_parser_init(&parser, method);
	status = response_parse(&parser, out, written + 2, &WIDE, &again, &why);
	ADIT_ASSERT(status == HEAD_DONE && again.head_bytes == written + 2 && again.status == head.status);
	/* Nothing but a length that is none of this message's speaks of framing. */
	ADIT_ASSERT(count(again.fields, "transfer-encoding") == 0 && count(again.fields, "connection") == 0);
	ADIT_ASSERT(count(again.fields, "content-length") <= (head.framing.kind == FRAMING_NONE));
	ADIT_ASSERT(count(again.fields, "upgrade") == head.upgrade);
	if (count(head.fields, "cookie") == 0)
		check_fields(head.fields, again.fields);
	free(out);
}

static void forward_trailer_lines(const char *p, size_t n)
{
	static const char *const never[] = { "transfer-encoding", "content-length", "host", "authorization", "connection",
					     "proxy-authorization", "set-cookie", "trailer", "upgrade", "te", "expect" };
	struct head head;
	struct slice to;
	char *out;

	if (!parse(p, n, &LIMITS, &head))
		return;
	out = buffer(head.fields.n);
	to = (struct slice){ out, forward_trailers(head.fields, out, head.fields.n) };
	for (size_t i = 0; i < sizeof(never) / sizeof(never[0]); i++)
		ADIT_ASSERT(count(to, never[i]) == 0);
	free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *copy;

	if (size == 0)
		return 0;
	copy = buffer(size - 1);
	if (size > 1)
		memcpy(copy, data + 1, size - 1);
	if (data[0] & 0x80) {
		forward_response(data[0], copy, size - 1);
	} else {
		forward_request(data[0], copy, size - 1);
		forward_trailer_lines(copy, size - 1);
	}
	free(copy);
	return 0;
}
