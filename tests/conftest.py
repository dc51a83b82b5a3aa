from hypothesis import HealthCheck, settings

# Machines are noisy: no test is judged by its time.
settings.register_profile("cortexd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("cortexd")
