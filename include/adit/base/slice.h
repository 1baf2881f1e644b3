/* A length-carrying view of bytes that somebody else owns. Not terminated, may hold any byte. */
#ifndef ADIT_BASE_SLICE_H
#define ADIT_BASE_SLICE_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct slice {
	const char *p;
	size_t n;
};

#define SLICE_FMT "%.*s"
#define SLICE_ARG(s) (int)(s).n, (s).p

static inline struct slice slice_of(const char *text)
{
	return (struct slice){ text, text ? strlen(text) : 0 };
}

/* Same bytes. */
bool slice_eq(struct slice a, struct slice b);
/* Same bytes when A-Z equals a-z; no locale. */
bool slice_ieq(struct slice a, struct slice b);
/* `s` ends with `tail`. */
bool slice_ends_with(struct slice s, struct slice tail);
/* Without leading and trailing SP and HTAB (RFC 9110 5.6.3, OWS). */
struct slice slice_trim(struct slice s);
/* Plain digits only, no sign, no space, at most `max`; false otherwise. */
bool slice_to_u64(struct slice s, unsigned long long max, unsigned long long *out);

#endif
