"""The app: the page and the API around one segmenter. Only this package and app.py know gradio.

    service      the model: answers as they grow, other refiners, batches, cached photos (no gradio)
    views        predictions, photos and texts as what the panels show (no gradio)
    downloads    download formats and the ZIP of a batch (no gradio)
    examples     what the page offers: photos, lists of names, a text to try (no gradio)
    suggestions  the names that a photo shows (no gradio)
    explainer    the five pictures of the tab About (no gradio)
    components   theme, photo field, panels, buttons, options; errors as toasts
    controller   the handlers of a tab's events
    tabs         the five tabs
    api          the endpoints for scripts and agents
    serving/     checked inputs, a fair queue, limits: what makes it an app that strangers may use

What the browser draws and styles is in assets/app.
"""
