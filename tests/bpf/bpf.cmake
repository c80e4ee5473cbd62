# SPDX-License-Identifier: Apache-2.0
add_library(mcmesh_bpf_harness STATIC ${CMAKE_CURRENT_LIST_DIR}/harness.c)
target_link_libraries(mcmesh_bpf_harness PUBLIC mcmesh_flags mcmesh_datapath PkgConfig::BPF
	PkgConfig::CRITERION)
mcmesh_test(test_bpf_packets LABEL bpf
	SOURCES ${CMAKE_CURRENT_LIST_DIR}/test_packets.c ${CMAKE_CURRENT_LIST_DIR}/test_overlay.c
	LIBS mcmesh_bpf_harness)
# Rows of the table leave out what does not apply.
target_compile_options(test_bpf_packets PRIVATE -Wno-missing-field-initializers)
mcmesh_test(test_bpf_datapath LABEL bpf SOURCES ${CMAKE_CURRENT_LIST_DIR}/test_datapath.c
	LIBS mcmesh_bpf_harness)
mcmesh_test(test_bpf_flows LABEL bpf SOURCES ${CMAKE_CURRENT_LIST_DIR}/test_flows.c
	LIBS mcmesh_bpf_harness)
mcmesh_test(test_bpf_engines LABEL bpf
	SOURCES ${CMAKE_CURRENT_LIST_DIR}/test_engines.c ${CMAKE_CURRENT_LIST_DIR}/test_wire.c
		${CMAKE_CURRENT_LIST_DIR}/mesh.c ${CMAKE_SOURCE_DIR}/node/oversize.c
	LIBS mcmesh_bpf_harness)
# Rows of engines leave out what does not apply.
target_compile_options(test_bpf_engines PRIVATE -Wno-missing-field-initializers)
mcmesh_test(test_bpf_crowd LABEL bpf SOURCES ${CMAKE_CURRENT_LIST_DIR}/test_crowd.c
	LIBS mcmesh_bpf_harness)
target_compile_options(test_bpf_crowd PRIVATE -Wno-missing-field-initializers)
