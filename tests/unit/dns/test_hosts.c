/* The hosts file: every form of a line, any byte, any cut. */
#include "dns/dns_priv.h"

#include "adit/base/mem.h"
#include "component/failing.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static void addresses_of(const struct dns_hosts *hosts, const char *name, char *out, size_t size)
{
	struct dns_result result;
	char text[ADDR_TEXT_SIZE];
	size_t n = 0;

	out[0] = '\0';
	if (!dns_hosts_find(hosts, name, &result))
		return;
	for (size_t i = 0; i < result.count; i++)
		n += (size_t)snprintf(out + n, size - n, "%s%s", i ? " " : "", addr_host_text(&result.addr[i], text));
}

Test(hosts, lines)
{
	static const struct {
		const char *text, *name, *addresses;
	} rows[] = {
		{ "", "a", "" },
		{ "10.0.0.1 a", "a", "10.0.0.1" },
		{ "10.0.0.1 a\n", "a", "10.0.0.1" },
		{ "10.0.0.1 a\r\n", "a", "10.0.0.1" },
		{ "\t10.0.0.1\ta \tb\tc ", "c", "10.0.0.1" },
		{ "10.0.0.1 a b c", "b", "10.0.0.1" },
		{ "10.0.0.1\va\fb", "b", "10.0.0.1" },
		{ "10.0.0.1 a # b", "b", "" },
		{ "10.0.0.1 a#b", "a", "10.0.0.1" },
		{ "# 10.0.0.1 a", "a", "" },
		{ "10.0.0.1 A.Example", "a.example", "10.0.0.1" },
		{ "10.0.0.1 a.example.", "a.example", "10.0.0.1" },
		{ "10.0.0.1 .", ".", "" },
		{ "10.0.0.1", "10.0.0.1", "" },
		{ "10.0.0.1 a\n10.0.0.2 a\n10.0.0.1 a\n::1 a", "a", "10.0.0.1 10.0.0.2 ::1" },
		{ "10.0.0.1 a a a", "a", "10.0.0.1" },
		{ "::1 a\n10.0.0.1 b\n127.0.0.1 a", "a", "::1 127.0.0.1" },
		{ "::ffff:10.0.0.1 a", "a", "10.0.0.1" },
		{ "fe80::1%lo0 a\n10.0.0.1 a", "a", "10.0.0.1" },
		{ "127.1 a", "a", "" },
		{ "010.0.0.1 a", "a", "" },
		{ "junk a\n10.0.0.1 b", "b", "10.0.0.1" },
		{ "10.0.0.1 aa\n10.0.0.2 a\n10.0.0.3 aaa", "a", "10.0.0.2" },
		{ "10.0.0.1 aa\n10.0.0.2 a\n10.0.0.3 aaa", "aaaa", "" },
		{ "\n\n\n10.0.0.1 a\n\n", "a", "10.0.0.1" },
		{ "0.0.0.0 blocked", "blocked", "0.0.0.0" },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct dns_hosts *hosts = dns_hosts_parse(slice_of(rows[i].text));
		char got[1024];

		cr_assert_not_null(hosts);
		addresses_of(hosts, rows[i].name, got, sizeof(got));
		cr_expect_str_eq(got, rows[i].addresses, "row %zu: %s", i, got);
		dns_hosts_unref(hosts);
	}
}

Test(hosts, any_bytes)
{
	static const char text[] = "10.0.0.1 a\0b\n\0\0\n10.0.0.2\0c\n\xff\xfe \x01 d\n10.0.0.3 \xff";
	struct dns_hosts *hosts = dns_hosts_parse((struct slice){ text, sizeof(text) - 1 });
	char got[1024];

	cr_assert_not_null(hosts);
	addresses_of(hosts, "b", got, sizeof(got));
	cr_expect_str_eq(got, "10.0.0.1");
	addresses_of(hosts, "c", got, sizeof(got));
	cr_expect_str_eq(got, "10.0.0.2");
	dns_hosts_unref(hosts);
}

/* Every cut of a text that has everything: no crash, and what a whole line says stays. */
Test(hosts, every_cut)
{
	static const char text[] = "# head\n10.0.0.1 a b # c\n::1\tlocalhost\n\n192.0.2.255 d";

	for (size_t n = 0; n < sizeof(text); n++) {
		char *tight = mem_alloc(n);
		struct dns_hosts *hosts;
		char got[1024];

		memcpy(tight, text, n);
		hosts = dns_hosts_parse((struct slice){ tight, n });
		mem_free(tight);
		cr_assert_not_null(hosts);
		addresses_of(hosts, "a", got, sizeof(got));
		cr_expect_str_eq(got, n >= 17 ? "10.0.0.1" : "", "cut at %zu", n);
		dns_hosts_unref(hosts);
	}
}

Test(hosts, more_addresses_than_a_result_holds)
{
	char text[4096];
	struct dns_hosts *hosts;
	struct dns_result result;
	size_t n = 0;

	for (int i = 0; i < 40; i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n, "10.0.0.%d a\n", 40 - i);
	hosts = dns_hosts_parse((struct slice){ text, n });
	cr_assert_not_null(hosts);
	cr_assert(dns_hosts_find(hosts, "a", &result));
	cr_expect_eq(result.count, DNS_ADDRESSES_MAX);
	for (size_t i = 0; i < result.count; i++) {
		char address[ADDR_TEXT_SIZE], expected[32];

		snprintf(expected, sizeof(expected), "10.0.0.%zu", 40 - i);
		cr_expect_str_eq(addr_host_text(&result.addr[i], address), expected);
	}
	dns_hosts_unref(hosts);
}

Test(hosts, large_block_list)
{
	enum { NAMES = 50000 };
	char *text = mem_alloc(NAMES * 40);
	struct dns_hosts *hosts;
	char got[64];
	size_t n = 0;

	for (int i = 0; i < NAMES; i++)
		n += (size_t)snprintf(text + n, 40, "0.0.0.0 name%d.example\n", (i * 7919) % NAMES);
	hosts = dns_hosts_parse((struct slice){ text, n });
	mem_free(text);
	cr_assert_not_null(hosts);
	for (int i = 0; i < NAMES; i += 997) {
		char name[40];

		snprintf(name, sizeof(name), "name%d.example", i);
		addresses_of(hosts, name, got, sizeof(got));
		cr_expect_str_eq(got, "0.0.0.0");
	}
	dns_hosts_unref(hosts);
}

Test(hosts, files)
{
	char path[] = "/tmp/adit-hosts-XXXXXX";
	int fd = mkstemp(path);
	struct dns_hosts *hosts;
	char got[64];

	cr_assert(fd >= 0 && write(fd, "10.0.0.1 a\n", 11) == 11);
	close(fd);
	hosts = dns_hosts_load(path);
	cr_assert_not_null(hosts);
	cr_expect_eq(dns_hosts_ref(hosts), hosts);
	dns_hosts_unref(hosts);
	addresses_of(hosts, "a", got, sizeof(got));
	cr_expect_str_eq(got, "10.0.0.1");
	dns_hosts_unref(hosts);
	unlink(path);

	/* Absent, a folder, a pipe nobody writes to: empty, and no wait. */
	for (int i = 0; i < 3; i++) {
		if (i == 1)
			cr_assert_eq(mkdir(path, 0700), 0);
		else if (i == 2)
			cr_assert_eq(mkfifo(path, 0600), 0);
		hosts = dns_hosts_load(path);
		cr_assert_not_null(hosts);
		addresses_of(hosts, "a", got, sizeof(got));
		cr_expect_str_eq(got, "");
		dns_hosts_unref(hosts);
		if (i > 0)
			remove(path);
	}
}

Test(hosts, every_allocation_may_fail)
{
	char path[] = "/tmp/adit-hosts-XXXXXX";
	int fd = mkstemp(path);
	bool hit = true;
	unsigned long n;

	cr_assert(fd >= 0 && write(fd, "10.0.0.1 a\n", 11) == 11);
	close(fd);
	for (n = 1; hit; n++) {
		struct dns_hosts *hosts;

		mem_fault_set(n, false);
		hosts = dns_hosts_load(path);
		hit = mem_fault_hit();
		mem_fault_set(0, false);
		cr_assert_eq(hit, hosts == NULL);
		dns_hosts_unref(hosts);
	}
	cr_expect_gt(n, 3);
	unlink(path);
}

/* What cannot be read leaves a table without it, and never one that waits or ends the program. */
Test(hosts, files_that_fail)
{
	static const struct {
		const char *call;
		int error;
		const char *address;
	} rows[] = {
		{ "read", EINTR, "10.0.0.1" }, { "read", EIO, "" }, { "fstat", EIO, "" }
	};
	char path[] = "/tmp/adit-hosts-XXXXXX", got[64];
	int fd = mkstemp(path);
	struct dns_hosts *hosts;

	cr_assert(fd >= 0 && write(fd, "10.0.0.1 a\n", 11) == 11);
	close(fd);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		failing_set(rows[i].call, 1, rows[i].error);
		hosts = dns_hosts_load(path);
		cr_assert(failing_hit() && hosts, "%s", rows[i].call);
		failing_set(NULL, 0, 0);
		addresses_of(hosts, "a", got, sizeof(got));
		cr_expect_str_eq(got, rows[i].address, "%s: %d", rows[i].call, rows[i].error);
		dns_hosts_unref(hosts);
	}
	unlink(path);
	cr_assert_eq(symlink(path, path), 0); /* a ring */
	hosts = dns_hosts_load(path);
	cr_assert_not_null(hosts);
	dns_hosts_unref(hosts);
	unlink(path);
}
