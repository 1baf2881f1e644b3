/* /etc/hosts as a snapshot: one sorted array over one copy of the text, so that every worker may search it at once
 * without a lock. Block lists of a few hundred thousand lines are ordinary: a name costs 32 bytes beside its text. */
#include "dns/dns_priv.h"

#include "adit/base/mem.h"
#include "adit/log/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define HOSTS_MAGIC OBJ_MAGIC('h', 'o', 's', 't')

enum { HOSTS_FILE_MAX_BYTES = 64 * 1024 * 1024 };

struct hosts_row {
	const char *name; /* into text */
	unsigned line; /* order within the file */
	uint8_t bytes[16];
};

struct dns_hosts {
	uint32_t magic;
	_Atomic unsigned refs;
	char *text; /* lower-cased, names terminated */
	struct hosts_row *rows; /* by name, then line */
	size_t count;
};

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f';
}

/* The next word of the line, terminated in place; NULL at its end. */
static char *next_word(char **at)
{
	char *p = *at, *word;

	while (is_space(*p))
		p++;
	if (*p == '\0')
		return NULL;
	word = p;
	while (*p != '\0' && !is_space(*p))
		p++;
	if (*p != '\0')
		*p++ = '\0';
	*at = p;
	return word;
}

/* Canonical like struct host.text: one trailing dot stripped. (The text is lower-cased as a whole.) */
static bool name_fits(char *name)
{
	size_t n = strlen(name);

	if (n > 0 && name[n - 1] == '.')
		name[--n] = '\0';
	return n > 0 && n <= HOST_TEXT_MAX;
}

static int by_name(const void *left, const void *right)
{
	const struct hosts_row *a = left, *b = right;
	int order = strcmp(a->name, b->name);

	return order != 0 ? order : (a->line > b->line) - (a->line < b->line);
}

/* An upper bound: words, less the address of each line. */
static size_t count_names(const char *text)
{
	size_t words = 0;
	bool inside = false;

	for (; *text; text++) {
		bool space = is_space(*text) || *text == '\n';

		words += !space && !inside;
		inside = !space;
	}
	return words;
}

static void parse_line(struct dns_hosts *hosts, char *line, unsigned number)
{
	char *hash = strchr(line, '#'), *word, *at = line;
	struct addr address;

	if (hash)
		*hash = '\0';
	word = next_word(&at);
	/* Addresses with a zone (fe80::1%eth0) and the short forms of inet_aton are no literals to us. */
	if (!word || !addr_from_literal(&address, slice_of(word), 0))
		return;
	while ((word = next_word(&at)) != NULL) {
		struct hosts_row *row = &hosts->rows[hosts->count];

		if (!name_fits(word))
			continue;
		row->name = word;
		row->line = number;
		addr_bytes(&address, row->bytes);
		hosts->count++;
	}
}

struct dns_hosts *dns_hosts_parse(struct slice text)
{
	struct dns_hosts *hosts = mem_alloc(sizeof(*hosts));
	unsigned number = 0;

	if (!hosts)
		return NULL;
	OBJ_INIT(hosts, HOSTS_MAGIC);
	hosts->refs = 1;
	hosts->text = mem_strndup(text.p, text.n);
	if (!hosts->text)
		goto fail;
	for (char *p = hosts->text, *end = p + text.n; p < end; p++) {
		if (*p >= 'A' && *p <= 'Z')
			*p = (char)(*p - 'A' + 'a');
		else if (*p == '\0')
			*p = ' ';
	}
	hosts->rows = mem_array(count_names(hosts->text), sizeof(*hosts->rows));
	if (!hosts->rows)
		goto fail;
	for (char *line = hosts->text, *next; line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		parse_line(hosts, line, ++number);
	}
	qsort(hosts->rows, hosts->count, sizeof(*hosts->rows), by_name);
	return hosts;
fail:
	dns_hosts_unref(hosts);
	return NULL;
}

/* The file's bytes; an empty text when there is no file or it cannot be used. False: out of memory. */
static bool read_file(const char *path, char **text, size_t *n)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;
	ssize_t got;
	bool ok = false;

	*text = NULL;
	*n = 0;
	if (fd < 0) {
		if (errno != ENOENT)
			log_warning("%s: cannot be read (%s); names in it are not known", path, strerror(errno));
		return true;
	}
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size > HOSTS_FILE_MAX_BYTES) {
		log_warning("%s: not a file of at most 64 MiB; names in it are not known", path);
		ok = true;
		goto out;
	}
	*text = mem_alloc((size_t)st.st_size);
	if (!*text)
		goto out;
	/* What is appended while we read comes with the next look at the file. */
	while (*n < (size_t)st.st_size && (got = read(fd, *text + *n, (size_t)st.st_size - *n)) != 0) {
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0) {
			log_warning("%s: cannot be read (%s); names in it may be missing", path, strerror(errno));
			break;
		}
		*n += (size_t)got;
	}
	ok = true;
out:
	close(fd);
	return ok;
}

struct dns_hosts *dns_hosts_load(const char *path)
{
	struct dns_hosts *hosts = NULL;
	char *text;
	size_t n;

	if (read_file(path, &text, &n))
		hosts = dns_hosts_parse((struct slice){ text ? text : "", n });
	mem_free(text);
	return hosts;
}

struct dns_hosts *dns_hosts_ref(struct dns_hosts *hosts)
{
	OBJ_CHECK(hosts, HOSTS_MAGIC);
	atomic_fetch_add(&hosts->refs, 1);
	return hosts;
}

void dns_hosts_unref(struct dns_hosts *hosts)
{
	if (!hosts)
		return;
	OBJ_CHECK(hosts, HOSTS_MAGIC);
	if (atomic_fetch_sub(&hosts->refs, 1) != 1)
		return;
	mem_free(hosts->rows);
	mem_free(hosts->text);
	OBJ_FINI(hosts);
	mem_free(hosts);
}

bool dns_hosts_find(const struct dns_hosts *hosts, const char *name, struct dns_result *result)
{
	size_t low = 0, high;

	OBJ_CHECK(hosts, HOSTS_MAGIC);
	high = hosts->count;
	while (low < high) { /* the first row not before the name */
		size_t middle = low + (high - low) / 2;

		if (strcmp(hosts->rows[middle].name, name) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	result->count = 0;
	for (; low < hosts->count && strcmp(hosts->rows[low].name, name) == 0; low++)
		if (!dns_result_add_bytes(result, hosts->rows[low].bytes))
			break;
	return result->count > 0;
}
