/* What fuzz targets that follow a script have in common: reading it byte by byte, and saying what does not hold. */
#ifndef ADIT_TESTS_FUZZ_SCRIPT_H
#define ADIT_TESTS_FUZZ_SCRIPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct script {
	const uint8_t *at, *end;
};

/* 0 behind the end. */
static inline unsigned script_byte(struct script *s)
{
	return s->at < s->end ? *s->at++ : 0;
}

/* A digit of a seed as its value; any byte is one. */
static inline unsigned script_digit(struct script *s)
{
	return script_byte(s) & 15;
}

/* At most `want` bytes, as many as there are. */
static inline size_t script_take(struct script *s, size_t want, const uint8_t **p)
{
	size_t left = (size_t)(s->end - s->at), n = want < left ? want : left;

	*p = s->at;
	s->at += n;
	return n;
}

static inline void must(bool holds, const char *what)
{
	if (!holds) {
		fprintf(stderr, "fuzz: %s\n", what);
		abort();
	}
}

#endif
