# SPDX-License-Identifier: Apache-2.0
add_library(mcmesh_oracle STATIC EXCLUDE_FROM_ALL
	oracle/oracle.c oracle/wire.c oracle/check.c)
target_link_libraries(mcmesh_oracle PUBLIC mcmesh_flags mcmesh_gmp)
# Optimised in each build: it is the slower half.
target_compile_options(mcmesh_oracle PRIVATE -O2)

mcmesh_test(test_node_gmp_oracle SOURCES unit/node/gmp_oracle.c LIBS mcmesh_oracle)

# Not a test: the same check, as long as one likes.
add_executable(mcmesh-oracle EXCLUDE_FROM_ALL oracle/main.c)
target_link_libraries(mcmesh-oracle PRIVATE mcmesh_oracle)
