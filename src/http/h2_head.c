/* Heads between HTTP/2 and HTTP/1.1. */
#include "http/h2_head.h"

#include "adit/base/mem.h"
#include "adit/http/head.h"

#include <stdio.h>

enum { FIELD_OVERHEAD = 32, TEXT_FIRST_BYTES = 256, FIELDS_FIRST = 16 };

/* --- texts --- */

void h2_text_wipe(struct h2_text *t)
{
	mem_burn(t->p, t->n);
	mem_free(t->p);
	*t = (struct h2_text){ 0 };
}

static bool text_room(struct h2_text *t, size_t n)
{
	size_t size = t->size ? t->size : TEXT_FIRST_BYTES;
	char *grown;

	if (t->p && t->size - t->n >= n)
		return true;
	while (size - t->n < n)
		size *= 2;
	grown = mem_alloc(size); /* not mem_resize, which would leave a copy behind */
	if (!grown)
		return false;
	if (t->p)
		memcpy(grown, t->p, t->n);
	mem_burn(t->p, t->n);
	mem_free(t->p);
	t->p = grown;
	t->size = size;
	return true;
}

static bool text_add(struct h2_text *t, struct slice s)
{
	if (!text_room(t, s.n))
		return false;
	if (s.n > 0)
		memcpy(t->p + t->n, s.p, s.n);
	t->n += s.n;
	return true;
}

static bool text_add_all(struct h2_text *t, const struct slice *parts, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (!text_add(t, parts[i]))
			return false;
	return true;
}

static struct slice slice_of_text(const struct h2_text *t)
{
	return (struct slice){ t->p, t->n };
}

/* --- in --- */

static bool add_cookie(struct h2_head *h, struct slice value)
{
	const struct slice parts[] = { slice_of(h->cookie.n > 0 ? "; " : ""), value };

	return text_add_all(&h->cookie, parts, 2);
}

static bool add_field(struct h2_head *h, struct slice name, struct slice value)
{
	const struct slice parts[] = { name, slice_of(": "), value, slice_of("\r\n") };

	if (slice_eq(name, slice_of(":method")))
		return text_add(&h->method, value);
	if (slice_eq(name, slice_of(":scheme")))
		return text_add(&h->scheme, value);
	if (slice_eq(name, slice_of(":authority")))
		return text_add(&h->authority, value);
	if (slice_eq(name, slice_of(":path")))
		return text_add(&h->path, value);
	if (slice_eq(name, slice_of("cookie")))
		return add_cookie(h, value);
	if (slice_eq(name, slice_of("host")) && h->authority.p)
		return true; /* the authority stands for it */
	if (slice_eq(name, slice_of("content-length")))
		h->has_content_length = true;
	return text_add_all(&h->fields, parts, 4);
}

void h2_head_add(struct h2_head *h, struct slice name, struct slice value, size_t most)
{
	h->bytes += name.n + value.n + FIELD_OVERHEAD;
	if (h->bytes > most)
		h->too_large = true;
	if (!h->too_large && !h->no_memory && !add_field(h, name, value))
		h->no_memory = true;
}

static bool add_target(const struct h2_head *h, struct h2_text *out)
{
	struct slice authority = slice_of_text(&h->authority), path = slice_of_text(&h->path);
	/* RFC 9110 7.1: OPTIONS for the whole server has no path in its absolute form */
	struct slice shown = slice_eq(path, slice_of("*")) ? (struct slice){ "", 0 } : path;
	const struct slice absolute[] = { slice_of_text(&h->scheme), slice_of("://"), authority, shown };

	if (!h->scheme.p)
		return text_add(out, authority);
	if (slice_ieq(slice_of_text(&h->scheme), slice_of("https")))
		return text_add(out, path);
	return text_add_all(out, absolute, 4);
}

bool h2_head_request(const struct h2_head *h, bool body, struct h2_text *out)
{
	const struct slice end = slice_of("\r\n");
	const struct slice line[] = { slice_of(" HTTP/1.1"), end };
	const struct slice host[] = { slice_of("host: "), slice_of_text(&h->authority), end };
	const struct slice cookie[] = { slice_of("cookie: "), slice_of_text(&h->cookie), end };
	bool chunked = body && !h->has_content_length && h->scheme.p;

	return text_add(out, slice_of_text(&h->method)) && text_add(out, slice_of(" ")) && add_target(h, out) &&
	       text_add_all(out, line, 2) && (!h->authority.p || text_add_all(out, host, 3)) &&
	       text_add(out, slice_of_text(&h->fields)) && (!h->cookie.p || text_add_all(out, cookie, 3)) &&
	       (!chunked || text_add(out, slice_of("transfer-encoding: chunked\r\n"))) && text_add(out, end);
}

void h2_head_wipe(struct h2_head *h)
{
	h2_text_wipe(&h->method);
	h2_text_wipe(&h->scheme);
	h2_text_wipe(&h->authority);
	h2_text_wipe(&h->path);
	h2_text_wipe(&h->fields);
	h2_text_wipe(&h->cookie);
}

/* --- out --- */

/* RFC 9113 8.2.2 */
static bool only_in_http1(struct slice name)
{
	static const char *const names[] = {
		"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade",
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (slice_ieq(name, slice_of(names[i])))
			return true;
	return false;
}

static bool add(struct h2_fields *f, struct slice name, struct slice value)
{
	if (f->n == f->size) {
		size_t size = f->size ? f->size * 2 : FIELDS_FIRST;
		nghttp2_nv *grown = mem_resize(f->nv, size, sizeof(*grown));

		if (!grown)
			return false;
		f->nv = grown;
		f->size = size;
	}
	f->nv[f->n++] = (nghttp2_nv){
		.name = (uint8_t *)(uintptr_t)name.p,
		.namelen = name.n,
		.value = (uint8_t *)(uintptr_t)value.p,
		.valuelen = value.n,
	};
	return true;
}

bool h2_fields_add(struct h2_fields *f, const char *name, const char *value)
{
	return add(f, slice_of(name), slice_of(value));
}

bool h2_fields_make(struct h2_fields *f, int status, char *fields, size_t n)
{
	struct slice rest = { fields, n };
	struct head_field field;

	*f = (struct h2_fields){ 0 };
	if (status > 0) {
		(void)snprintf(f->status, sizeof(f->status), "%03d", status % 1000);
		if (!h2_fields_add(f, ":status", f->status))
			return false;
	}
	while (head_next_field(&rest, &field)) {
		if (only_in_http1(field.name))
			continue;
		for (char *c = fields + (field.name.p - fields); c < field.name.p + field.name.n; c++)
			if (*c >= 'A' && *c <= 'Z')
				*c = (char)(*c - 'A' + 'a');
		if (!add(f, field.name, field.value))
			return false;
	}
	return true;
}

void h2_fields_free(struct h2_fields *f)
{
	mem_free(f->nv);
	f->nv = NULL;
	f->n = f->size = 0;
}
