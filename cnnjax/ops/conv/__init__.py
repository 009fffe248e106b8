"""Convolution: the documented functions, and the forms that compute them."""
