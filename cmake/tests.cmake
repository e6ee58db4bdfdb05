# C++ unit tests, without Python: `make test-cpp` builds and runs them, plain and under the sanitizers.
enable_testing()

function(qkv_add_test name)
  add_executable(${name}_test csrc/tests/${name}_test.cc)
  target_link_libraries(${name}_test PRIVATE qkv_cpu qkv_flags)
  add_test(NAME ${name} COMMAND ${name}_test)
endfunction()

qkv_add_test(cpu)
qkv_add_test(pool)
qkv_add_test(probe)
qkv_add_test(targets)
set_tests_properties(pool PROPERTIES ENVIRONMENT "TSAN_OPTIONS=atexit_sleep_ms=20" TIMEOUT 60)

# What the sanitizers add to an object file is not what is linked into a wheel.
if(CMAKE_NM AND NOT QKV_SANITIZE)
  foreach(name IN LISTS QKV_TARGET_NAMES)
    add_test(NAME symbols_${name} COMMAND ${CMAKE_COMMAND} -DNM=${CMAKE_NM} -DTARGET=${name}
      -DOBJECT=$<TARGET_OBJECTS:qkv_target_${name}> -P ${CMAKE_CURRENT_SOURCE_DIR}/cmake/symbols.cmake)
  endforeach()
endif()
qkv_add_test(terms)
