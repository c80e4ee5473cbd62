/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: the datapath against its peers
 *
 *   mcmesh-bench-datapath [--quick | --scale] [--json FILE] [--case CASE] [--fanout N]
 *                         [--peer PEER | none] [--rounds N]
 *
 * One process, one CPU, namespaces of its own. The product is its own library
 * (node/datapath) with real lists; beside it stand the Linux bridge (snooping,
 * remotes by a head-end FDB), the bridge with a VXLAN MDB, the published eBPF
 * design as published and with its hashes sized to the group, and a bare
 * redirect as the floor (datapath_peers.c). Same devices, same generator; the
 * receivers count and drop in TCX. What goes to other nodes is counted at their
 * receivers, by the same design at both ends of the wire (datapath_far.c), and, as the
 * case "sending", a second time where it comes off the wire.
 *
 * What is measured is CPU time: this thread's, in which softirqs run, and
 * ksoftirqd's. From it the generator's own share is taken, measured each round
 * by dropping at ingress. All that stand in a row are measured in each round,
 * in alternating order, and a row's ratio is the median over the rounds of
 * product / peer in delivered copies a CPU second. Before that each must
 * deliver exactly its copies of one packet: too many is as wrong as too few.
 */
#include "tests/bench/datapath.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "datapath.skel.h"
#include "tests/bench/datapath_shared.h"

#define ROUNDS	      9
#define ROUNDS_QUICK  7
#define COPIES	      24000 /* a measurement, about */
#define COPIES_QUICK  12000
#define PACKETS_MAX   12000
#define SETTLE_MS     100 /* so long nothing: what is missing is lost */
#define WARM_UP	      1024
#define PROVE_TRIES   400
#define PROVE_WAIT_MS 10

const unsigned int fanouts[] = { 1, 4, 16, 64 };
const size_t n_fanouts = ARRAY_SIZE(fanouts);

static const size_t payloads[] = { 64, 1400 };

/* Who stands in a row, the product first, the base last. */
struct contender {
	const char *peer;
	enum stand stand;
	enum group_variant variant;
	uint16_t udp_port;
	uint32_t vni;
	unsigned int cases; /* bits of enum bench_case */
};

enum bench_case {
	CASE_LOCAL,
	CASE_REMOTE, /* to the receivers of other nodes, each copy out of its tunnel again */
	CASE_RECEIVE,
	CASE_MIXED,
	CASE_BURST,
	CASE_SENDING, /* as CASE_REMOTE, but only to the end of the wire */
	CASES
};

#define BIT(c) (1U << (c))
#define ALL    (BIT(CASES) - 1)

static const char *const case_names[CASES] = { "local", "remote", "receive",
					       "mixed", "burst",  "sending" };

static const struct contender contenders[] = {
	{ "product", STAND_PRODUCT, GROUP_PLAIN, PORT_OVERLAY, SEGMENT, ALL },
	{ "bridge", STAND_BRIDGE, GROUP_PLAIN, PORT_BRIDGE, VNI_RECEIVE, ALL },
	{ "mdb", STAND_MDB, GROUP_PLAIN, 0, 0,
	  BIT(CASE_REMOTE) | BIT(CASE_MIXED) | BIT(CASE_SENDING) },
	{ "ref", STAND_REF, GROUP_PLAIN, PORT_REF, REF_VNI, ALL },
	{ "ref_sized", STAND_REF, GROUP_SIZED, PORT_REF, REF_VNI, ALL },
	{ "redirect", STAND_REDIRECT, GROUP_PLAIN, PORT_OVERLAY, 1, ALL & ~BIT(CASE_MIXED) },
	{ "base", STAND_BASE, GROUP_PLAIN, PORT_OVERLAY, 1, ALL },
};

#define N ARRAY_SIZE(contenders)

/* A row: one case, fan-out and payload. */
struct row {
	enum bench_case c;
	unsigned int fanout, packets;
	size_t payload;
	struct generator *generators[N]; /* NULL: does not stand in it */
	double cpu_ns[N], delivered[N];	 /* of the present round; delivered: fraction */
	double ratios[N][ROUNDS_MAX], ns_a_copy[N][ROUNDS_MAX], fractions[N][ROUNDS_MAX];
};

/* ---- clocks and counters ---------------------------------------------------- */

static double clock_ns(clockid_t id)
{
	struct timespec t;

	if (clock_gettime(id, &t) < 0)
		die("clock: %s", strerror(errno));
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

double bench_cpu_ns(const struct bench *b)
{
	return clock_ns(CLOCK_THREAD_CPUTIME_ID) + clock_ns(b->ksoftirqd);
}

/* Of the kernel thread that takes over softirqs on this CPU. */
static clockid_t find_ksoftirqd(int cpu)
{
	char want[32], path[64], comm[32];
	DIR *proc = opendir("/proc");
	struct dirent *e;
	clockid_t id;

	snprintf(want, sizeof(want), "ksoftirqd/%d\n", cpu);
	while (proc && (e = readdir(proc))) {
		FILE *f;

		snprintf(path, sizeof(path), "/proc/%.16s/comm", e->d_name);
		f = fopen(path, "re");
		if (!f)
			continue;
		if (!fgets(comm, sizeof(comm), f))
			comm[0] = '\0';
		fclose(f);
		if (strcmp(comm, want) != 0)
			continue;
		if (clock_getcpuclockid((pid_t)atoi(e->d_name), &id) != 0)
			break;
		closedir(proc);
		return id;
	}
	die("there is no ksoftirqd/%d: run on the machine, not in a container of its own pids",
	    cpu);
}

uint64_t bench_copies(const struct bench *b)
{
	uint64_t per_cpu[1024], sum = 0;
	uint32_t zero = 0;

	if (b->n_cpus > (int)ARRAY_SIZE(per_cpu) ||
	    bpf_map_lookup_elem(bpf_map__fd(b->bpf->maps.delivered), &zero, per_cpu) < 0)
		die("cannot read the counter");
	for (int i = 0; i < b->n_cpus; i++)
		sum += per_cpu[i];
	return sum;
}

/* Until nothing more arrives. */
uint64_t bench_copies_settled(const struct bench *b, uint64_t want)
{
	uint64_t last = bench_copies(b), n;

	for (int quiet = 0; last < want && quiet < SETTLE_MS; last = n) {
		(void)poll(NULL, 0, 1);
		n = bench_copies(b);
		quiet = n == last ? quiet + 1 : 0;
	}
	return last;
}

/* ---- a row ------------------------------------------------------------------ */

static enum group_kind case_group(enum bench_case c)
{
	return c == CASE_REMOTE || c == CASE_SENDING ? GROUP_REMOTE
	       : c == CASE_MIXED		     ? GROUP_MIXED
						     : GROUP_LOCAL;
}

/* The product and the base always do. */
static bool stands_in(const struct bench *b, size_t i)
{
	return i == 0 || i == N - 1 || !b->only_peer ||
	       strcmp(b->only_peer, contenders[i].peer) == 0;
}

static unsigned int copies_of(const struct row *r, size_t i)
{
	return contenders[i].stand == STAND_BASE       ? 0
	       : contenders[i].stand == STAND_REDIRECT ? 1
						       : r->fanout;
}

static void row_open(struct bench *b, struct row *r)
{
	uint32_t zero = 0, only = r->c == CASE_SENDING;

	if (bpf_map_update_elem(bpf_map__fd(b->bpf->maps.sending_only), &zero, &only, BPF_ANY) < 0)
		die("cannot fill a map: %s", strerror(errno));
	for (size_t i = 0; i < N; i++) {
		const struct contender *who = &contenders[i];
		struct flow flow = {
			.kind = r->c == CASE_RECEIVE ? GENERATE_OVERLAY
				: r->c == CASE_BURST ? GENERATE_BURST
						     : GENERATE_WORKLOAD,
			.stand = who->stand,
			.group = group_address(case_group(r->c), who->variant, r->fanout),
			.vni = who->vni,
			.udp_port = who->udp_port,
			.payload = r->payload,
		};

		if (stands_in(b, i) && who->cases & BIT(r->c))
			r->generators[i] =
				generator_open(&flow, bpf_program__fd(b->bpf->progs.pass_all));
	}
	r->packets = b->copies / r->fanout < PACKETS_MAX ? b->copies / r->fanout : PACKETS_MAX;
	r->packets -= r->packets % BATCH;
}

static void row_close(struct row *r)
{
	for (size_t i = 0; i < N; i++)
		generator_close(r->generators[i]);
}

/* One packet gives exactly its copies; a bridge floods until its querier has
 * spoken, so each gets some time to come to that. */
static void row_prove(struct bench *b, struct row *r, size_t i)
{
	unsigned int want = copies_of(r, i);
	uint64_t got = 0;

	for (int try = 0; try < PROVE_TRIES; try++) {
		uint64_t before = bench_copies_settled(b, 0);

		generator_send(r->generators[i], 1);
		bench_copies_settled(b, before + want);
		(void)poll(NULL, 0, 1); /* for those too many */
		got = bench_copies(b) - before;
		if (got == want)
			return;
		(void)poll(NULL, 0, PROVE_WAIT_MS);
	}
	die("%s, case %s, fan-out %u: one packet gives %llu copies", contenders[i].peer,
	    case_names[r->c], r->fanout, (unsigned long long)got);
}

static void row_measure(struct bench *b, struct row *r, size_t i)
{
	uint64_t want = (uint64_t)r->packets * copies_of(r, i), before, got;
	double cpu;

	before = bench_copies(b);
	generator_send(r->generators[i], BATCH); /* warm */
	before = bench_copies_settled(b, before + (uint64_t)BATCH * copies_of(r, i));
	cpu = bench_cpu_ns(b);
	generator_send(r->generators[i], r->packets);
	cpu = bench_cpu_ns(b) - cpu;
	got = bench_copies_settled(b, before + want) - before;
	if (got > want)
		die("%s, case %s, fan-out %u: %llu copies of %llu: duplicates", contenders[i].peer,
		    case_names[r->c], r->fanout, (unsigned long long)got, (unsigned long long)want);
	r->cpu_ns[i] = cpu;
	r->delivered[i] = want ? (double)got / (double)want : 1;
}

static void row_round(struct bench *b, struct row *r, unsigned int round)
{
	double base;

	for (size_t n = 0; n < N; n++) {
		size_t i = round % 2 ? N - 1 - n : n;

		if (r->generators[i])
			row_measure(b, r, i);
	}
	base = r->cpu_ns[N - 1];
	for (size_t i = 0; i < N; i++) {
		double copies = (double)r->packets * copies_of(r, i) * r->delivered[i];
		double net = r->cpu_ns[i] > base ? r->cpu_ns[i] - base : 1;

		if (!r->generators[i] || copies == 0)
			continue;
		r->ns_a_copy[i][round] = net / copies;
		r->fractions[i][round] = r->delivered[i];
		r->ratios[i][round] = r->ns_a_copy[i][round] / r->ns_a_copy[0][round];
	}
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

double bench_median(double *values, unsigned int n)
{
	qsort(values, n, sizeof(*values), compare);
	return values[n / 2];
}

static void row_report(struct bench *b, struct row *r)
{
	double fraction = bench_median(r->fractions[0], b->rounds);

	printf("%-8s %4u %6zu  %5.0f ns  %.3f ", case_names[r->c], r->fanout, r->payload,
	       bench_median(r->ns_a_copy[0], b->rounds), fraction);
	for (size_t i = 1; i < N - 1; i++) {
		double ratio;

		if (!r->generators[i]) {
			printf(" %17s", "-");
			continue;
		}
		ratio = bench_median(r->ratios[i], b->rounds);
		printf("  %6.2f (%5.0f ns)", ratio, bench_median(r->ns_a_copy[i], b->rounds));
		json_array_append_new(
			r->c == CASE_SENDING ? b->sending : b->rows,
			json_pack("{s:s,s:i,s:i,s:s,s:f,s:f}", "case", case_names[r->c], "fanout",
				  (int)r->fanout, "payload", (int)r->payload, "peer",
				  contenders[i].peer, "ratio", ratio, "delivered", fraction));
	}
	printf("\n");
	fflush(stdout);
}

static void row_run(struct bench *b, enum bench_case c, unsigned int fanout, size_t payload)
{
	struct row *r = calloc(1, sizeof(*r));

	if (!r)
		die("out of memory");
	r->c = c;
	r->fanout = fanout;
	r->payload = payload;
	row_open(b, r);
	for (size_t i = 0; i < N; i++) {
		if (r->generators[i])
			row_prove(b, r, i);
	}
	/* Lists with traffic may now be served in another way. */
	generator_send(r->generators[0], WARM_UP);
	(void)product_settle();
	row_prove(b, r, 0);
	for (unsigned int round = 0; round < b->rounds; round++)
		row_round(b, r, round);
	row_report(b, r);
	row_close(r);
	free(r);
}

/* ---- all -------------------------------------------------------------------- */

struct arguments {
	bool quick, only_scale;
	const char *json, *only_case, *only_peer, *overlay_path, *delivery, *engine;
	unsigned int fanout, rounds;
};

static struct arguments parse(int argc, char **argv)
{
	struct arguments a = { .overlay_path = "auto", .delivery = "auto", .engine = "auto" };

	for (int i = 1; i < argc; i++) {
		const char *value = i + 1 < argc ? argv[i + 1] : NULL;

		if (strcmp(argv[i], "--quick") == 0) {
			a.quick = true;
			continue;
		}
		if (strcmp(argv[i], "--scale") == 0) {
			a.only_scale = true;
			continue;
		}
		if (!value)
			die("usage: [--quick | --scale] [--json FILE] [--case CASE] [--fanout N] "
			    "[--peer PEER | none] [--rounds N] [--overlay-path auto|device] "
			    "[--delivery auto|egress] [--engine "
			    "auto|base]");
		i++;
		if (strcmp(argv[i - 1], "--json") == 0)
			a.json = value;
		else if (strcmp(argv[i - 1], "--case") == 0)
			a.only_case = value;
		else if (strcmp(argv[i - 1], "--peer") == 0)
			a.only_peer = value;
		else if (strcmp(argv[i - 1], "--rounds") == 0)
			a.rounds = (unsigned int)atoi(value);
		else if (strcmp(argv[i - 1], "--fanout") == 0)
			a.fanout = (unsigned int)atoi(value);
		else if (strcmp(argv[i - 1], "--overlay-path") == 0)
			a.overlay_path = value;
		else if (strcmp(argv[i - 1], "--delivery") == 0)
			a.delivery = value;
		else if (strcmp(argv[i - 1], "--engine") == 0)
			a.engine = value;
		else
			die("unknown argument %s", argv[i - 1]);
	}
	return a;
}

static void pin_to_a_cpu(struct bench *b)
{
	cpu_set_t set;
	int cpu = sched_getcpu();

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (cpu < 0 || sched_setaffinity(0, sizeof(set), &set) < 0)
		die("cannot stay on one CPU: %s", strerror(errno));
	b->ksoftirqd = find_ksoftirqd(cpu);
	b->n_cpus = libbpf_num_possible_cpus();
}

static void write_json(const struct bench *b, const char *path)
{
	json_t *root = json_pack("{s:O,s:O,s:O}", "rows", b->rows, "sending", b->sending, "scale",
				 b->scale);

	if (json_dump_file(root, path, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) < 0)
		die("cannot write %s", path);
	json_decref(root);
}

static bool wanted(const struct arguments *a, enum bench_case c, unsigned int fanout)
{
	if (c == CASE_MIXED && fanout == 1)
		return false;
	if (a->only_case && strcmp(a->only_case, case_names[c]) != 0)
		return false;
	return !a->fanout || a->fanout == fanout;
}

static void table_run(struct bench *b, const struct arguments *a)
{
	printf("%-8s %4s %6s  %8s  %5s ", "CASE", "N", "BYTES", "PRODUCT", "DELIV");
	for (size_t i = 1; i < N - 1; i++)
		printf(" %17s", contenders[i].peer);
	printf("\n");
	for (enum bench_case c = 0; c < CASES; c++) {
		for (size_t f = 0; f < n_fanouts; f++) {
			for (size_t p = 0; p < ARRAY_SIZE(payloads); p++) {
				if (wanted(a, c, fanouts[f]))
					row_run(b, c, fanouts[f], payloads[p]);
			}
		}
	}
}

int main(int argc, char **argv)
{
	struct arguments a = parse(argc, argv);
	struct bench b = { .rounds = a.rounds  ? a.rounds
				     : a.quick ? ROUNDS_QUICK
					       : ROUNDS,
			   .copies = a.quick ? COPIES_QUICK : COPIES,
			   .only_peer = a.only_scale ? "bridge" : a.only_peer,
			   .rows = json_array(),
			   .sending = json_array(),
			   .scale = json_object() };
	struct utsname kernel;
	unsigned int stands = 0;

	if (b.rounds > ROUNDS_MAX)
		die("at most %d rounds", ROUNDS_MAX);
	net_enter();
	for (size_t i = 0; i < N; i++) {
		if (stands_in(&b, i))
			stands |= 1U << contenders[i].stand;
	}
	net_make_devices(stands);
	b.bpf = datapath_bpf__open_and_load();
	if (!b.bpf)
		die("cannot load the benchmark's BPF programs: %s", strerror(errno));
	peers_open(b.bpf, stands);
	product_open(a.overlay_path, a.delivery, a.engine);
	far_open(b.bpf, stands, a.overlay_path, a.delivery);
	pin_to_a_cpu(&b);

	uname(&kernel);
	printf("Linux %s; product / peer in delivered copies a CPU second, medians of %u rounds\n",
	       kernel.release, b.rounds);
	if (!a.only_scale)
		table_run(&b, &a);
	if (a.only_scale || (!a.quick && !a.only_case && !a.only_peer && !a.fanout))
		scale_run(&b);
	if (a.json)
		write_json(&b, a.json);
	far_close();
	product_close();
	datapath_bpf__destroy(b.bpf);
	json_decref(b.rows);
	json_decref(b.sending);
	json_decref(b.scale);
	return 0;
}
