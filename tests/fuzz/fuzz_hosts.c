/* Any file as /etc/hosts: what is known afterwards is what a reader of lines and words finds in it, in the file's
 * order, no address twice, no more than a result holds; and no name is found that is not there. */
#include "dns/dns_priv.h"
#include "fuzz/script.h"

#include <string.h>

enum { NAMES = 4 };

static bool space(uint8_t c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f' || c == '\0';
}

/* The next word of the line, lower-cased. */
static struct slice word(const uint8_t **at, const uint8_t *end, char *buf)
{
	size_t n = 0;

	while (*at < end && space(**at))
		(*at)++;
	while (*at < end && !space(**at)) {
		uint8_t c = *(*at)++;

		buf[n++] = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
	}
	buf[n] = '\0';
	return (struct slice){ buf, n };
}

static bool canonical(struct slice *name)
{
	if (name->n > 0 && name->p[name->n - 1] == '.')
		name->n--;
	return name->n > 0 && name->n <= HOST_TEXT_MAX;
}

/* The addresses of a name, by walking over the file. */
static void look(const uint8_t *p, size_t n, const char *name, struct dns_result *out, char *buf)
{
	const uint8_t *end = p + n;

	out->count = 0;
	while (p < end) {
		const uint8_t *eol = memchr(p, '\n', (size_t)(end - p)), *next, *hash;
		struct addr address;
		struct slice w;

		next = eol ? eol + 1 : end;
		eol = eol ? eol : end;
		hash = memchr(p, '#', (size_t)(eol - p));
		eol = hash ? hash : eol;
		w = word(&p, eol, buf);
		if (w.n > 0 && addr_from_literal(&address, w, 0))
			while ((w = word(&p, eol, buf)).n > 0)
				if (canonical(&w) && slice_eq(w, slice_of(name)) && !dns_result_add(out, &address))
					return;
		p = next;
	}
}

static void must_agree(const struct dns_hosts *hosts, const uint8_t *p, size_t n, const char *name, char *buf)
{
	struct dns_result got, want;
	bool found = dns_hosts_find(hosts, name, &got);

	look(p, n, name, &want, buf);
	must(found == (want.count > 0) && (!found || got.count == want.count), "another number of addresses");
	must(got.count <= DNS_ADDRESSES_MAX, "more than a result holds");
	for (size_t i = 0; i < got.count; i++) {
		char text[ADDR_TEXT_SIZE];
		struct addr again;

		must(addr_equal(&got.addr[i], &want.addr[i]) && addr_port(&got.addr[i]) == 0, "another address");
		must(addr_from_literal(&again, slice_of(addr_host_text(&got.addr[i], text)), 0), "no address");
		must(addr_equal(&again, &got.addr[i]), "an address that reads back as another");
		for (size_t j = 0; j < i; j++)
			must(!addr_equal(&got.addr[i], &got.addr[j]), "an address twice");
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct dns_hosts *hosts = dns_hosts_parse((struct slice){ size > 0 ? (const char *)data : "", size });
	char *buf = malloc(size + 1), *name = malloc(size + 2);
	const uint8_t *end = data + size;

	must(hosts && buf && name, "out of memory");
	for (size_t i = 0; i < NAMES; i++) { /* words from all over the file, comments and parts of words too */
		const uint8_t *p = data + size * i / NAMES;
		struct slice w;

		while (p < end && *p == '\n')
			p++;
		w = word(&p, end, buf);
		w.n = strcspn(w.p, "\n#");
		if (!canonical(&w))
			continue;
		memcpy(name, w.p, w.n);
		name[w.n] = '\0';
		must_agree(hosts, data, size, name, buf);
	}
	must_agree(hosts, data, size, "a", buf);
	free(buf);
	free(name);
	dns_hosts_unref(hosts);
	return 0;
}
