# SPDX-License-Identifier: Apache-2.0
mcmesh_test(test_node_gmp
	SOURCES unit/node/gmp_harness.c unit/node/gmp_state.c unit/node/gmp_wire.c
		unit/node/gmp_querier.c unit/node/gmp_snoop.c unit/node/gmp_api.c
		unit/node/gmp_proxy.c
	LIBS mcmesh_gmp)
mcmesh_test(test_node_gmp_oom SOURCES unit/node/gmp_harness.c unit/node/gmp_oom.c LIBS mcmesh_gmp)
target_link_options(test_node_gmp_oom PRIVATE
	-Wl,--wrap=malloc -Wl,--wrap=calloc -Wl,--wrap=realloc)

add_executable(mcmesh-bench-gmp EXCLUDE_FROM_ALL bench/gmp.c)
target_link_libraries(mcmesh-bench-gmp PRIVATE mcmesh_flags mcmesh_gmp)
