/* Faults from outside. */
#include "adit/base/fault.h"

#ifdef ADIT_FAULTS

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct fault {
	const char *name;
	unsigned long every; /* 0: never */
	atomic_ulong count;
};

static struct fault alloc_fault = { .name = "alloc=" };
static struct fault send_fault = { .name = "io=" }, receive_fault = { .name = "io=" };

static void read_one(struct fault *f, const char *text)
{
	const char *at = strstr(text, f->name);

	f->every = at ? strtoul(at + strlen(f->name), NULL, 10) : 0;
}

static void read_environment(void)
{
	const char *text = getenv("ADIT_FAULTS");

	read_one(&alloc_fault, text ? text : "");
	read_one(&send_fault, text ? text : "");
	read_one(&receive_fault, text ? text : "");
}

static bool strikes(struct fault *f)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, read_environment);
	return f->every > 0 && atomic_fetch_add(&f->count, 1) % f->every == f->every - 1;
}

bool fault_alloc(void)
{
	return strikes(&alloc_fault);
}

bool fault_send(void)
{
	return strikes(&send_fault);
}

size_t fault_receive(size_t size)
{
	return strikes(&receive_fault) ? 1 : size;
}

#else
/* ISO C wants a translation unit to hold something. */
extern int fault_none;
#endif
